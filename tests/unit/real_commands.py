"""Commands that a page or a workflow shows, held against what there is: make targets, `sppo`, and files."""

import importlib.util
import inspect
import itertools
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sppo_pipelines import cli
from sppo_pipelines.profile import load_images, load_profile, usual_profile
from sppo_pipelines.submission.package import kinds_of_keys, parameters
from sppo_pipelines.words import values_together

from sppo.config.limits import Limits
from sppo.config.reading import read_overrides
from sppo.config.run import kinds, resolve
from sppo.errors import ConfigError
from sppo.judging import own_files, registry
from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig
from sppo.process.contents import KEYS as MOVABLE

ROOT = Path(__file__).parents[2]
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in {"build", "dist", "runs"}}
_WITH_PAGES = [ROOT / folder for folder in sorted(FOLDERS) if not folder.startswith(".") or folder == ".github"]
PAGES = [*sorted(ROOT.glob("*.md")), *(page for folder in _WITH_PAGES for page in sorted(folder.rglob("*.md")))]
"""Every page that people read."""
PREFIXES = {"if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}", "sudo", "env"}
SEPARATORS = re.compile(r"[;|&()\n]+")
MADE = {"build/images.yaml", "build/images-cpu.yaml"}
"""What `make images` writes."""
CALLS = re.compile(r"(?:^|[;|&(]\s*)(?:\w+=\S*\s+)*(?:\.venv/bin/)?(?:sppo|make|pip|python|torchrun)\s")
"""A line with a program that `check` knows."""
SHELLS = {"", "bash", "console", "sh", "shell"}
"""Languages of fenced blocks that hold commands."""


class NotRealError(AssertionError):
    """A command that would fail for whoever ran it."""


def commands_of_page(page: str) -> list[list[str]]:
    """The commands of a Markdown page whose programs `check` knows, from its indented and its fenced blocks.

    What else is there, such as output or other programs' lines, is left out.
    """
    return [words for line in lines_of_code(page) if CALLS.search(line) for words in commands(line)]


def lines_of_code(page: str) -> Iterator[str]:
    """The lines of a Markdown page's blocks that may hold commands; those that go on are joined, prompts taken away."""
    fence, language, begun = "", "", ""
    for line in page.splitlines():
        bare = line.strip()
        if fence:
            fence = "" if bare == fence else fence
            code = bool(fence) and language in SHELLS
        elif opened := re.match(r"(`{3,}|~{3,})(\w*)", bare):
            fence, language, code = opened[1], opened[2], False
        else:
            code = line.startswith("    ") or bool(begun)
        if not code:
            begun = ""
        elif bare.endswith("\\"):
            begun += bare.removesuffix("\\")
        else:
            yield (begun + bare).removeprefix("$ ")
            begun = ""


def commands(
    script: str, variables: Mapping[str, str] | None = None, samples: Mapping[str, str] | None = None
) -> Iterator[list[str]]:
    """The simple commands of a shell script, as words, without keywords, assignments and redirections.

    Args:
        script: shell text; of substitutions only `$(…)` that does not nest.
        variables: what is set before it starts.
        samples: values of what it sets itself, for those where it matters.

    Raises:
        NotRealError: for a variable that nothing sets.
    """
    script = re.sub(r"(?m)(^|\s)#.*$", "", script.replace("\\\n", " "))
    assigned = re.findall(r"\b(\w+)=", script) + re.findall(r"\bfor (\w+) in ", script)
    assigned += " ".join(re.findall(r"\bread -r ([\w ]+)", script)).split()
    known = {"_": "", **{name: (samples or {}).get(name, f"some-{name}") for name in assigned}, **(variables or {})}
    for inner in re.findall(r"\$\(([^()]*)\)", script):
        yield from commands(inner, known)
    lexer = shlex.shlex(re.sub(r"\$\([^()]*\)", "${_}", script), posix=True, punctuation_chars=";|&()<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    redirected = False
    for token in [*lexer, "\n"]:
        if SEPARATORS.fullmatch(token):
            if words and words[0] != "for":
                yield from commands(words[1], known) if words[0] == "trap" else [_expanded(words, known)]
            words = []
        elif redirected or set(token) <= {"<", ">"}:
            redirected = not redirected
            if not redirected:
                _expanded([token], known)
        elif words or (token not in PREFIXES and not re.match(r"\w+=", token)):
            words.append(token)


def _expanded(words: Iterable[str], known: Mapping[str, str]) -> list[str]:
    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise NotRealError(f"nothing sets ${match[1]}")
        return known[match[1]]

    return [re.sub(r"\$\{?(\w+)\}?", value, word) for word in words]


def check(words: list[str], made: Iterable[str] = ()) -> None:
    """Hold a command against the repository.

    Args:
        words: the command and its arguments.
        made: files that an earlier command makes.

    Raises:
        NotRealError: if it names a target, a subcommand, a flag, a value, a module or a file that does not exist.
    """
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "torchrun" and "--no-python" in arguments:
        program, *arguments = arguments[arguments.index("sppo") :]
    if program == "sppo":
        check_sppo(arguments, made)
    elif program == "make":
        check_make(arguments)
    elif program == "pip":
        check_pip(arguments)
    elif program.startswith("python") and "-m" in arguments:
        check_module(arguments[arguments.index("-m") + 1])
    for word in arguments:
        path = word.partition("=")[2] or word
        if path.split("/")[0] in FOLDERS and "/" in path and not any(ROOT.glob(path)) and path not in made:
            raise NotRealError(f"{' '.join(words)}: no file {path}")


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """A subcommand of `sppo` and its values, parsed by the real command line, but not run."""
    try:
        play = cli.app.cli(args=values_together(arguments), prog="sppo", console_outputs=False)
    except SystemExit:
        raise NotRealError(f"sppo {' '.join(arguments)}: the command line refuses it") from None
    bound = inspect.signature(play.func).bind(*play.args, **play.keywords)
    bound.apply_defaults()
    return arguments[0], bound.arguments


def check_sppo(arguments: list[str], made: Iterable[str] = ()) -> None:
    """Parse an `sppo` command, and load what it names: configuration, profile and images."""
    if arguments in (["--version"], ["--help"]):
        return
    name, values = parsed(arguments)
    try:
        check_values(name, values)
        if values.get("profile"):
            load_profile(values["profile"])
        if values.get("images") and str(values["images"]) not in made:
            load_images(values["images"])
        if "wait" in values:
            cli.submission.check_wait(values["wait"], values["keep_going"], values["junit"])
    except (ConfigError, ValidationError) as error:
        raise NotRealError(f"sppo {' '.join(arguments)}: {error}") from None


def check_values(name: str, values: Mapping[str, Any]) -> None:
    """Resolve the KEY=VALUEs of a command, over its preset and file, as the command does.

    Raises:
        ConfigError, ValidationError: if it refuses them.
    """
    if "overrides" in values:
        known = kinds_of_keys() if name == "submit" else None
        asked = cli.collect_values(values.get("preset"), values.get("config_file"), values["overrides"], known)
        if values.get("benchmarks"):
            asked["bench.benchmarks"] = list(values["benchmarks"])
        if name == "submit":
            profile = values["profile"] or usual_profile(str(asked.get("preset", "cpu")))
            several_nodes = load_profile(profile).training.nodes > 1
            _, config = parameters(asked, Limits(values["max_iterations"], several_nodes))
        else:
            config = resolve(asked)
        check_judge(config.preference_model)
    elif name == "judge":
        asked = cli.collect_values(None, None, values["settings"])
        own_files.check_keys(asked, own_files.BENCHMARK_KEYS if values["benchmark"] else own_files.SCORING_KEYS)
        check_judge(resolve({"preference_model": values["judge"], **asked}).preference_model)
        if values["output"]:
            own_files.check_output(values["output"])
    elif name == "train-preference":
        asked = read_overrides(values["settings"], kinds(TrainPreferenceConfig))
        TrainPreferenceConfig.model_validate({**asked, "train": values["train"], "output": values["output"]})
    elif name == "resume" and not {*read_overrides(values["moved"], {})} <= {*MOVABLE}:
        raise ConfigError(f"{values['moved']}: only {' and '.join(MOVABLE)} may move")


def check_judge(uri: str) -> None:
    """Find the kind of judge that is written with a scheme of its own; models are not looked for."""
    scheme, colon, _ = uri.partition(":")
    known = {scheme for kind in registry.kinds() for scheme in kind.schemes}
    if colon and scheme not in known | {"hf", "package", "s3"}:
        raise ConfigError(f"preference_model: no kind of judge is written {uri}")


def check_module(name: str) -> None:
    """Find a module that `python -m` runs."""
    path = ROOT.joinpath(*name.split("."))
    if not (path.with_suffix(".py").is_file() or importlib.util.find_spec(name.partition(".")[0])):
        raise NotRealError(f"python -m {name}: no such module")


def check_make(arguments: list[str]) -> None:
    """Find a Makefile's targets and variables."""
    makefile = (ROOT / "Makefile").read_text()
    for word in arguments:
        name, assigned, _ = word.partition("=")
        pattern = rf"\$\({re.escape(name)}\)" if assigned else rf"^{re.escape(name)}:"
        if not re.search(pattern, makefile, re.MULTILINE):
            raise NotRealError(f"make {' '.join(arguments)}: the Makefile has no {name}")


def check_pip(arguments: list[str]) -> None:
    """Find the extras that are installed."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in re.findall(r"(?:^|\s)(?:sppo|\.)\[([\w,]+)\]", " ".join(arguments)):
        for extra in name.split(","):
            if extra not in extras:
                raise NotRealError(f"pip {' '.join(arguments)}: no extra {extra}")
    for flag, path in itertools.pairwise(arguments):
        if flag in {"--constraint", "--requirement"} and not (ROOT / path).is_file():
            raise NotRealError(f"pip {' '.join(arguments)}: no file {path}")
