"""The image files: what can be told of them without building them."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("prepare", "generate", "rank", "train", "evaluate", "publish")
SECRET = re.compile(r"token|secret|password|credential|access_key|api_key", re.IGNORECASE)


def instructions(stage: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions and their arguments, comments dropped and continued lines joined."""
    text = (ROOT / "images" / stage / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def arguments(stage: str, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(stage) if word == instruction]


def test_every_stage_has_an_image():
    assert {path.parent.name for path in (ROOT / "images").glob("*/Dockerfile")} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_the_base_is_an_argument_with_an_exact_default(stage):
    first, base = instructions(stage)[0]
    name, _, default = base.partition("=")
    assert first == "ARG"
    assert re.search(r":\d+\.\d+\.\d+|@sha256:[0-9a-f]{64}", default)
    assert [source.split()[0] for source in arguments(stage, "FROM")] == [f"${{{name}}}"] * 2


@pytest.mark.parametrize("stage", STAGES)
def test_it_runs_as_an_unprivileged_user(stage):
    assert arguments(stage, "USER") == ["10001"]
    words = [word for word, _ in instructions(stage)]
    assert not {"RUN", "COPY", "FROM"} & set(words[words.index("USER") :])


@pytest.mark.parametrize("stage", STAGES)
def test_it_installs_the_extra_of_its_stage(stage):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert stage in extras
    assert any(f"sppo-*.whl)[{stage}]" in run for run in arguments(stage, "RUN"))
    assert f'title="sppo-{stage}"' in arguments(stage, "LABEL")[0]


@pytest.mark.parametrize("stage", STAGES)
def test_it_copies_only_what_the_build_context_holds(stage):
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for copy in arguments(stage, "COPY"):
        if not copy.startswith("--from="):
            for source in copy.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignore


@pytest.mark.parametrize("stage", STAGES)
def test_it_holds_no_secret(stage):
    settings = arguments(stage, "ARG") + arguments(stage, "ENV")
    assert settings
    assert not [setting for setting in settings if SECRET.search(setting)]
