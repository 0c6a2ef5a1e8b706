"""Commands that a page or a workflow shows, held against what there is: make targets, `sppo`, and files."""

import functools
import itertools
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tyro
from sppo_pipelines import cli
from sppo_pipelines.profile import load_images, load_profile
from sppo_pipelines.submission.package import kinds_of_keys, parameters

from sppo.config.limits import Limits
from sppo.config.run import resolve
from sppo.errors import ConfigError

ROOT = Path(__file__).parents[2]
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in {"build", "dist", "runs"}}
PREFIXES = {"if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}", "sudo", "env"}
SEPARATORS = re.compile(r"[;|&()\n]+")


class NotRealError(AssertionError):
    """A command that would fail for whoever ran it."""


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
        NotRealError: if it names a target, a subcommand, a flag, a value or a file that does not exist.
    """
    program, *arguments = words
    if program.removeprefix(".venv/bin/") == "sppo":
        check_sppo(arguments, made)
    elif program == "make":
        check_make(arguments)
    elif program.removeprefix(".venv/bin/") == "pip":
        check_pip(arguments)
    for word in arguments:
        path = word.partition("=")[2] if word.startswith("--") else word
        if path.split("/")[0] in FOLDERS and not any(ROOT.glob(path)) and path not in made:
            raise NotRealError(f"{' '.join(words)}: no file {path}")


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """A subcommand of `sppo` and its values, parsed by the real command line, but not run."""

    def recorded(name: str, function: Any) -> Any:
        return functools.wraps(function)(lambda *args, **values: (name, values))

    app = tyro.extras.SubcommandApp()
    for name, command in cli.app._subcommands.items():
        app.command(name=name)(recorded(name, command.target))
    try:
        return app.cli(args=arguments, prog="sppo", console_outputs=False)
    except SystemExit:
        raise NotRealError(f"sppo {' '.join(arguments)}: the command line refuses it") from None


def check_sppo(arguments: list[str], made: Iterable[str] = ()) -> None:
    """Parse an `sppo` command, and load what it names: configuration, profile and images."""
    name, values = parsed(arguments)
    try:
        if "overrides" in values:
            known = kinds_of_keys() if name == "submit" else None
            given = values.get("preset"), values.get("config_file"), values["overrides"]
            asked = cli.stage.collect_values(*given, known)
            if name == "submit":
                several_nodes = load_profile(values["profile"]).training.nodes > 1
                parameters(asked, Limits(values["max_iterations"], several_nodes))
            else:
                resolve(asked)
        if "profile" in values:
            load_profile(values["profile"])
        if values.get("images") and str(values["images"]) not in made:
            load_images(values["images"])
        if "wait" in values:
            cli.submission.check_wait(values["wait"], values["keep_going"], values["junit"])
    except ConfigError as error:
        raise NotRealError(f"sppo {' '.join(arguments)}: {error}") from None


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
