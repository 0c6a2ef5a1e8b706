"""What users write and read, frozen: commands and flags, keys, figures, exit codes, component inputs, variables.

Each list is compared with what the real program says; `conftest.py` plays the run whose figures MLflow gets. Not frozen
are descriptions, defaults (`docs/configuration.md` shows those of every preset) and the range of a value.
"""

import ast
import contextlib
import importlib
import io
import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from sppo_pipelines import cli
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.placement import CREDENTIALS, SETTINGS, variables
from sppo_pipelines.profile import Profile

from sppo import errors
from sppo.config.run import RunConfig
from sppo.config.sections.section import Section
from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig
from tests.conftest import documents

from .frozen import LISTS, check

ROOT = Path(__file__).parents[3]
KINDS = (
    "commands",
    "components",
    "configuration",
    "configuration-of-profiles",
    "configuration-of-train-preference",
    "environment",
    "exit-codes",
    "metrics",
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_names_are_those_of_the_list(kind: str, request: pytest.FixtureRequest) -> None:
    check(kind, request.getfixturevalue(kind.replace("-", "_")))


def test_every_list_is_compared() -> None:
    assert sorted(path.stem for path in LISTS.glob("*.txt")) == list(KINDS)


# Commands, as --help has them


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    monkeypatch.setenv("COLUMNS", "1000")
    listed = re.findall(r"^│\s+• (\S+)", help_of(), re.MULTILINE)
    assert {"run", "submit"} <= set(listed)
    return {line for name in listed for line in usage(f"sppo {name}", help_of(name))}


def help_of(*command: str) -> str:
    told = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # the boxes' lines depend on the encoding
    with contextlib.redirect_stdout(told), pytest.raises(SystemExit):
        cli.app.cli(args=[*command, "--help"], prog="sppo")
    told.seek(0)
    return told.read()


def usage(command: str, told: str) -> Iterator[str]:
    """A command with its positional arguments in their order, and then with each of its flags."""
    places = [f"[{name}]" if optional and name[0] != "[" else name for name, optional in box(told, "positional")]
    yield " ".join([command, *places])
    for flag, optional in box(told, "options"):
        yield f"{command} {flag}" if optional else f"{command} {flag} (required)"


def box(told: str, title: str) -> Iterator[tuple[str, bool]]:
    """The arguments in a box of a help text, each with whether it may be left out."""
    found = re.search(rf"^╭─ {title}.*?\n(.*?)^╰", told, re.MULTILINE | re.DOTALL)
    lines = [line.strip("│")[1:].rstrip() for line in found[1].splitlines()] if found else []
    for entry in re.split(r"\n(?! )", "\n".join(lines)) if lines else []:
        name, _, description = re.sub(r"\s{2,}", "\0", entry).partition("\0")
        if name != "-h, --help":
            yield name, "(required)" not in description


# Configurations, as their JSON Schema has them


@pytest.fixture
def configuration(run_sppo: Callable[..., Any]) -> set[str]:
    return set(keys(json.loads(run_sppo("config", "schema").out)))


@pytest.fixture
def configuration_of_profiles() -> set[str]:
    return set(keys(Profile.model_json_schema()))


@pytest.fixture
def configuration_of_train_preference() -> set[str]:
    return set(keys(TrainPreferenceConfig.model_json_schema()))


def keys(schema: Mapping[str, Any]) -> Iterator[str]:
    """Every key of a configuration with the type of its value; a section is no key."""

    def of_section(section: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for name, field in section["properties"].items():
            value, key = meant(field), prefix + name
            item = meant(value.get("items", {}))
            if "properties" in value:
                yield from of_section(value, f"{key}.")
                continue
            yield f"{key}: {type_of(value)}{' (required)' if name in section.get('required', ()) else ''}"
            if "properties" in item:
                yield from of_section(item, f"{key}[].")

    def meant(field: Mapping[str, Any]) -> Mapping[str, Any]:
        return schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field

    def type_of(value: Mapping[str, Any]) -> str:
        value = meant(value)
        if "enum" in value:
            return " | ".join(sorted(value["enum"]))
        if "anyOf" in value:
            return " or ".join(map(type_of, value["anyOf"]))
        if "items" in value:
            return f"list of {type_of(value['items'])}"
        if isinstance(value.get("additionalProperties"), dict):
            return f"mapping to {type_of(value['additionalProperties'])}"
        return str(value.get("type", "anything"))

    return of_section(schema, "")


# Exit codes, as the command ends


@pytest.fixture
def exit_codes(run_sppo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SppoError)]
    codes = {
        "done": run_sppo("config", "schema").code,
        "a flag that does not exist": run_sppo("config", "schema", "--no-such-flag").code,
        "a wrong value": run_sppo("config", "show", "iterations=0").code,
    }

    def ended(act: Callable[[], Any]) -> int:
        monkeypatch.setattr(cli.app, "cli", lambda **_: act())
        return int(run_sppo("run").code)

    def fail(kind: type[errors.SppoError]) -> None:
        raise kind("told")

    monkeypatch.setattr(cli, "_end_children", lambda: None)  # they are the test's own
    codes |= {kind.__name__: ended(partial(fail, kind)) for kind in kinds}
    codes |= {each.name: ended(partial(signal.raise_signal, each)) for each in (signal.SIGINT, signal.SIGTERM)}
    return {f"{code}: {end}" for end, code in codes.items()}


# Components and the pipeline, as they are compiled


@pytest.fixture
def components(tmp_path: Path) -> set[str]:
    compile_pipeline(tmp_path / "sppo.yaml", 1, "one-gpu")
    package, _ = documents((tmp_path / "sppo.yaml").read_text())
    found = set(interface("pipeline", package["root"]))
    for path in (ROOT / "components").glob("*/*/component.py"):
        name = path.parent.name
        component = getattr(importlib.import_module(f"sppo_components.{name}"), name)
        found |= set(interface(name, compiled(component, tmp_path)))
    return found


def compiled(component: Any, folder: Path) -> dict[str, Any]:
    """What a component's package says of it."""
    from kfp import compiler

    compiler.Compiler().compile(component, str(folder / "component.yaml"))
    said: dict[str, Any]
    (said,) = yaml.safe_load((folder / "component.yaml").read_text())["components"].values()
    return said


def interface(name: str, said: Mapping[str, Any]) -> Iterator[str]:
    """Inputs and outputs of a component with their types."""
    for way in ("input", "output"):
        defined = said.get(f"{way}Definitions", {})
        types = {place: parameter["parameterType"] for place, parameter in defined.get("parameters", {}).items()}
        for place, artifact in defined.get("artifacts", {}).items():
            kind = artifact["artifactType"]["schemaTitle"]
            types[place] = f"list of {kind}" if artifact.get("isArtifactList") else kind
        optional = {place for group in defined.values() for place, each in group.items() if each.get("isOptional")}
        for place, kind in types.items():
            yield f"{name} {way} {place}: {kind}{' (optional)' if place in optional else ''}"


# Variables of the environment, as the program spells them


@pytest.fixture
def environment() -> set[str]:
    """Those that begin with `SPPO_`: that the source spells in one word, or that the package sets in pods."""
    sources = (path for package in ("sppo", "components", "pipelines") for path in (ROOT / package).rglob("*.py"))
    words = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    words |= set(variables((*SETTINGS, *CREDENTIALS)).values())
    return {word for word in words if re.fullmatch(r"SPPO_[A-Z_]*[A-Z]", word)}


# That a change is seen


@pytest.fixture
def comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written, also where `make surface` writes the lists."""
    monkeypatch.delenv("SURFACE", raising=False)


@pytest.mark.usefixtures("comparing")
def test_a_message_names_what_changed_and_how_to_mean_it(tmp_path: Path) -> None:
    (tmp_path / "commands.txt").write_text("sppo lost\nsppo run\n")
    with pytest.raises(AssertionError) as told:
        check("commands", ["sppo run", "sppo new"], tmp_path)
    assert str(told.value).splitlines() == [
        "the program does not have the names of commands.txt",
        "added: sppo new",
        "removed: sppo lost",
        "Names are a promise to users. If the change is meant, run `make surface` and say it in the commit.",
    ]


@pytest.mark.usefixtures("comparing")
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_more_or_less_fails_the_test_of_every_list(kind: str, tmp_path: Path) -> None:
    first, *others = (LISTS / f"{kind}.txt").read_text().splitlines()
    shutil.copy(LISTS / f"{kind}.txt", tmp_path)
    with pytest.raises(AssertionError, match=rf"(?m)^added: a new name\nremoved: {re.escape(first)}\n"):
        check(kind, ["a new name", *others], tmp_path)


def test_a_new_command_and_its_flag_are_seen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def polish(run: str, often: int = 1) -> None:
        """Polish a run."""

    monkeypatch.setattr(cli.app, "_subcommands", {**cli.app._subcommands})
    cli.app.command(polish)
    assert {"sppo polish --run STR (required)", "sppo polish --often INT"} <= request.getfixturevalue("commands")


def test_a_new_key_is_seen() -> None:
    class Longer(RunConfig):
        colours: tuple[Section, ...] = ()

    new = set(keys(Longer.model_json_schema())) - set(keys(RunConfig.model_json_schema()))
    assert new == {"colours: list of object"}


def test_a_new_input_is_seen(tmp_path: Path) -> None:
    from kfp import dsl

    def paint(model_uri: str, colour: str = "red") -> None:
        """Paint a model."""

    said = set(interface("paint", compiled(dsl.component(paint, base_image="python"), tmp_path)))
    assert said == {"paint input model_uri: STRING", "paint input colour: STRING (optional)"}
