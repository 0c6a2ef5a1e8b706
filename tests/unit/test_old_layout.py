"""A place that version 0.1 wrote is told as such, and left as it is."""

from pathlib import Path

import pytest

from sppo.store.base import MANIFEST


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Where version 0.1 committed a run's configuration."""
    (tmp_path / "run" / "prepared").mkdir(parents=True)
    (tmp_path / "run" / "prepared" / MANIFEST).write_text("{}")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "words",
    [
        *(("run", "output_uri={}"), ("run", "output_uri={}", "--plan-only"), ("prepare", "output_uri={}")),
        *((name, "{}") for name in ("resume", "report", "clean", "generate", "train", "publish")),
        ("compare", "{}", "{}"),
    ],
    ids=" ".join,
)
def test_every_command_refuses_it_in_one_line(run_sppo, old: Path, words: tuple[str, ...]) -> None:
    result = run_sppo(*(word.format(old) for word in words))
    assert result.code == 2
    assert result.err.startswith(f"error: {old}: holds a run of sppo 0.1, ") and result.err.count("\n") == 1
    assert [path.name for path in old.rglob("*")] == ["prepared", MANIFEST]
