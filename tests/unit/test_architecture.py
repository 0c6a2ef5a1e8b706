"""The tree is the architecture: docs/architecture.md names its folders in the order in which they may import."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
LAYERS = next(
    contract["layers"] for contract in LINT["contracts"] if contract["type"] == "layers" and "containers" in contract
)
MODULES = sorted((ROOT / "sppo").rglob("*.py"))


def imported(source: str) -> set[str]:
    """Every module that a source imports, inside its functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_a_stranger_finds_at_most_six_modules_beside_the_folders():
    assert len(list((ROOT / "sppo").glob("*.py"))) <= 6


def test_no_file_is_long():
    trees = ("sppo", "components", "pipelines", "tests", "benchmarks", "scripts")
    lengths = {path: len(path.read_text().splitlines()) for tree in trees for path in (ROOT / tree).rglob("*.py")}
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > 400} == {}


def test_the_table_of_folders_is_that_of_the_layers():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)`", page, re.MULTILINE)
    assert rows == [name for layer in LAYERS for name in re.findall(r"\w+", layer)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_processes_that_talk_to_each_other_belong_to_training_alone(path):
    """import-linter sees of a library only its first name."""
    talks = any(re.match(r"torch\.distributed\b", name) for name in imported(path.read_text()))
    assert not talks or path.is_relative_to(ROOT / "sppo" / "training")


def test_an_import_inside_a_function_is_seen():
    assert "torch.distributed" in imported("def f():\n    from torch import distributed\n")
