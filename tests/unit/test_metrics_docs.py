"""Every figure is tracked, named in words, documented and drawn under one name."""

import re
from pathlib import Path

from sppo.reporting.report.catalogue import CHARTS
from sppo.reporting.report.figures import FIGURES

ROOT = Path(__file__).parents[2]
NOT_CHARTED = {
    "prepare/": "is known before the first iteration",
    "eval/instructions_unchecked": "is 0 but for odd answers",
    "publish/": "is one value of the whole run",
    "eval/instructions_drop": "is the distance of two charted curves",
    "eval/instructions_prompts": "is the same in every iteration",
    **{
        f"final/instructions_{kinds}_{what}": why
        for kinds in ("trained", "other")
        for what, why in (("gain", "is the distance of two charted values"), ("prompts", "is known beforehand"))
    },
    "train/steps": "is the width of an iteration in the charts over training steps",
}


def documented() -> list[str]:
    """The names in the first column of the table."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_documentation_and_labels_name_the_same_figures() -> None:
    names = documented()
    assert len(names) == len(set(names))
    assert set(names) == set(FIGURES)


def test_every_figure_that_the_stages_write_is_labelled() -> None:
    # Reports read figures, by the beginnings of their names too.
    sources = [path.read_text() for path in (ROOT / "sppo").rglob("*.py") if "reporting" not in path.parts]
    written = {
        name for text in sources for name in re.findall(r'"((?:generate|rank|judge|pairs|train|eval|gate)/\w+)"', text)
    }
    assert len(written) > 20
    assert written <= set(FIGURES)


def test_every_figure_is_charted_or_excused() -> None:
    charted = [name for chart in CHARTS for name, _ in chart.series]
    assert len(charted) == len(set(charted))
    excused = {name for name in FIGURES if name.startswith(tuple(NOT_CHARTED))}
    assert not excused & set(charted)
    assert excused | set(charted) == set(FIGURES) | set(documented())
