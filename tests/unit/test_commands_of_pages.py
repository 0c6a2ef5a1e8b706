"""Every command of every page is one that the real command line takes, and every path of the repository is there."""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from .real_commands import FOLDERS, MADE, PAGES, ROOT, NotRealError, check, commands_of_page
from .surface.frozen import LISTS

WITH_COMMANDS = [*PAGES, *sorted((ROOT / "examples").glob("*.yaml"))]
SHOWN = re.compile(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?sppo [a-z]|^    make [a-z]", re.MULTILINE)
"""A line that anybody would take for a command, wherever it is."""
INLINE = re.compile(r"`(?:\.venv/bin/)?(sppo|make) ([a-z][^`]*)`")
THEIRS = {"sppo/trainer.py", "recipes/uclaml-sppo/config_full.yaml"}
"""Files of the authors' repository, which a page cites."""
each_page = pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    """A page; of an example, what its comments say."""
    comments = re.compile(r"^# ?(.*)$|^.*$\n?", re.MULTILINE)
    return page.read_text() if page.suffix == ".md" else comments.sub(r"\1", page.read_text())


@pytest.fixture
def with_its_examples(new_kinds: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Adds the files that a page shows: those of a package to it, others to a folder that holds what the root holds."""
    root = tmp_path / "root"
    root.mkdir()
    for entry in ROOT.iterdir():
        (root / entry.name).symlink_to(entry)
    monkeypatch.chdir(root)

    def add(page: str) -> None:
        for name, text in re.findall(r"`([\w-]+\.yaml)`:\n\n```yaml\n(.*?)```", page, re.DOTALL):
            (root / name).write_text(text)
        for folder, file, code in re.findall(r"`(sppo/[\w/]+)/(\w+\.py)`:?\S*\n\n```python\n(.*?)```", page, re.DOTALL):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / file).write_text(code)
            package = import_module(folder.replace("/", "."))
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / folder)])

    return add


@each_page
def test_the_commands_of_a_page_are_taken(page: Path, with_its_examples: Callable[[str], None]) -> None:
    with_its_examples(page.read_text())
    found = commands_of_page(text_of(page))
    for words in found:
        check(words, MADE)
    assert len(found) >= len(SHOWN.findall(text_of(page))), "some of what the page shows was not found"


def test_pages_have_commands() -> None:
    found = {str(page.relative_to(ROOT)): len(commands_of_page(text_of(page))) for page in WITH_COMMANDS}
    assert sum(found.values()) > 100
    assert sum(count > 0 for count in found.values()) > 18
    assert min(found[page] for page in ("README.md", "CONTRIBUTING.md", "docs/cluster.md", "images/README.md")) > 0


@each_page
def test_what_a_sentence_names_is_there(page: Path) -> None:
    known = set((LISTS / "commands.txt").read_text().split("\n"))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, words in INLINE.findall(text_of(page)):
        name, *others = words.split()
        if program == "make":
            assert name in targets, f"make {words}"
            continue
        assert any(line.split()[1] == name for line in known if line), f"sppo {words}"
        for flag in (word for word in others if word.startswith("-")):
            assert any(re.match(rf"sppo {name} (.*, )?{flag}( |$)", line) for line in known), f"sppo {words}"


@each_page
def test_a_path_is_there(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"`([\w.*-]+(?:/[\w.*-]*)+)(?:::\w+)?`", text):
        shown = f"`{path}`:\n\n```" in text
        if path.split("/")[0] in FOLDERS and path not in THEIRS and not shown:
            assert any(any(folder.glob(path.rstrip("/"))) for folder in (ROOT, page.parent)), path


PAGE = """
Some words, and `sppo run` in them.

    sppo run output_uri=runs/a train.eta=5 \\
        train.lora.rank=4 --plan-only   # what is there
    there already: nothing, and this isn't a command

```sh
$ cat answers.jsonl | sppo judge answers.jsonl
SPPO_CACHE=/tmp/x .venv/bin/sppo report runs/a && make lint
```

```python
sppo = "no command"
```

   sppo is a word of this line, and three spaces are not four.
"""


def test_commands_are_found_in_every_kind_of_block() -> None:
    assert [" ".join(words) for words in commands_of_page(PAGE)] == [
        "sppo run output_uri=runs/a train.eta=5 train.lora.rank=4 --plan-only",
        "cat answers.jsonl",
        "sppo judge answers.jsonl",
        ".venv/bin/sppo report runs/a",
        "make lint",
    ]
    for words in commands_of_page(PAGE):
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "sppo rnu",
        "sppo run train.etta=5",
        "sppo run train.eta=-5",
        "sppo run train.schedule_epochs=1 \\\n    train.epochs=2",
        "sppo run --plan",
        "sppo run --config no-such-file.yaml",
        "sppo run prompts=examples/no-such-file.jsonl",
        "sppo run preference_model=rule:my_rules:score",
        "sppo prepare | sppo rank",
        "sppo judge a.jsonl train.eta=5",
        "sppo judge a.jsonl --output a.csv",
        "sppo train-preference epoch=5 --train a.jsonl --output judge",
        "sppo resume runs/a train.eta=5",
        "sppo bench runs/a --benchmarks mt_bench",
        "torchrun --no-python sppo train",
        "python -m no_such_module",
        "python benchmarks/no-such-file.py",
        "make no-such-target",
        "make images REGISTER=here",
    ],
)
@pytest.mark.parametrize("block", ["    {}", "```\n{}\n```"])
def test_a_wrong_command_is_found(line: str, block: str) -> None:
    indented = line.replace("\n", "\n    ")
    with pytest.raises(NotRealError):
        for words in commands_of_page(block.format(indented if block[0] == " " else line)):
            check(words)
