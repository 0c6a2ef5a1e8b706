"""The documentation says what the software does."""

import re
from pathlib import Path

import pytest
from sppo_pipelines.cli import app
from sppo_pipelines.submission.package import hardware_keys

from sppo.config.run import all_keys, reference

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_configuration_reference_is_current() -> None:
    missing = [row for row in reference().splitlines() if row not in (ROOT / "docs" / "configuration.md").read_text()]
    assert not missing, f"copy the rows of `sppo config reference` into docs/configuration.md: {missing}"
    assert reference() in (ROOT / "docs" / "configuration.md").read_text(), "the rows are there, in another order"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    commands = re.findall(r"^    (?:\.venv/bin/)?sppo ([a-z-]+)", page.read_text(), re.MULTILINE)
    known = {name for name in app._subcommands}
    assert set(commands) <= known
    overrides = re.findall(
        r"\b([a-z_]+(?:\.[a-z_]+)*)=\S", "\n".join(re.findall(r"^    sppo .*$", page.read_text(), re.MULTILINE))
    )
    assert set(overrides) <= {*all_keys(), *hardware_keys()}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"^    make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets
