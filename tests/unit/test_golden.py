"""The packages as files: whatever changes in what a cluster receives shows in a difference that somebody reads."""

import difflib
from pathlib import Path

import pytest
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.profile import SHIPPED

GOLDEN = Path(__file__).parent / "golden"
CASES = {"default": (3, "one-gpu"), **{path.stem: (1, path.stem) for path in SHIPPED.glob("*.yaml")}}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_package_is_its_golden_file(name, tmp_path):
    compile_pipeline(tmp_path / "sppo.yaml", *CASES[name])
    golden, now = (GOLDEN / f"{name}.yaml").read_text(), (tmp_path / "sppo.yaml").read_text()
    changes = list(difflib.unified_diff(golden.splitlines(), now.splitlines(), "golden", "now", lineterm="", n=1))
    assert not changes, "\n".join([*changes[:60], "`make golden` writes the golden files anew: read their difference"])


def test_every_golden_file_is_compared():
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(CASES)
