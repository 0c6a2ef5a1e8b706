"""Every objective on the default run, with two judges and several seeds, as docs/objectives.md.

    python benchmarks/objectives.py
    python benchmarks/objectives.py --only sppo dpo --judges encoder --seeds 0

plays `sppo run` with each of `OBJECTIVES`, `JUDGES` and `SEEDS`. Those of a seed are played in one place, where a
changed value redoes only what it touches: they share the first iteration's responses and the base's answers. What a run
left is kept in benchmarks/played/objectives, and the page is written after each from all that is there. What is there
is not played again, also after an interruption or on another machine. Objectives meet, answer by answer, where both
were played in one place; so play those of a judge and seed together.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from game import markdown
from objective_runs import ASKED, JUDGES, OBJECTIVES, SHOWN, Against, Key, Row, against, matrix, play, read
from results import ROOT, revision
from variants import cells

from sppo.evaluation.statistics import FEWEST
from sppo.reporting.compare.comparison import Evidence

PAGE, PLOT = ROOT / "docs" / "objectives.md", ROOT / "docs" / "images" / "objectives.svg"
KEPT = ROOT / "benchmarks" / "played" / "objectives"
"""What the runs left, a file each."""
SEEDS = (0, 1, 2)
KEYS = [Key(judge, objective, seed) for seed, judge, objective in itertools.product(SEEDS, JUDGES, OBJECTIVES)]
"""All runs, in the order in which they are played."""
PLOTTED = {
    "win rate over the base, by the judge of the training": ("eval/win_rate_vs_base", 0.5),
    "gain in instructions of kinds that were not trained on": ("final/instructions_other_gain", 0.0),
}
"""Figures in the plot, each with its value for a model that is as good as the base."""

INTRODUCTION = """\
The [objectives](training.md#other-objectives) on the default run with two iterations of 64 prompts, and without a gate.
In the first iteration the policy is the base, and `rspo` only weakens the steps of `sppo`. The second shows more of it.
The judge `mixture` is the default's. With `encoder` the training judge is `package:sppo` alone.
All runs of a seed share the responses of the first iteration and the base's answers.
Models answer the same held-out prompts and prompts with verifiable instructions as in [results.md](results.md)."""

SETTINGS = """\
## Settings

| objective | values |
|---|---|
| `sppo` | η = 1000, the paper's |
| `rspo` | η = 1000, weights 0.1 (forward) and 0.5 (reverse), the defaults |
| `dpo` | η = 10: a beta of 0.1, the default of TRL's `DPOConfig` |
| `ipo` | η = 10: a tau of 0.1, the same default |

The learning rate is that of the default run for all. RMSProp divides a gradient by its own size, so that the scale of a
loss matters little. No objective was tuned here. The default run's values were chosen with `sppo`."""

CANNOT = """\
## What it cannot say

- Two iterations are played. The paper plays three of about 20,000 prompts each.
- Rates and step sizes were tuned for none of the other objectives. Each could do better with its own.
- The policy has 135 million weights and takes sixteen steps. The order among larger models may be another.
- The judges that train are the judges that compare, but for `package:sppo/second`. It has 22 million weights itself.
- Intervals are over prompts. They say nothing of other seeds, and three seeds say little.
- Each run is represented by its best model, chosen by the same held-out prompts. That flatters all objectives alike.
- Many pairs are compared: of equals, one in twenty would seem to differ."""


def page(rows: Mapping[Key, Row]) -> str:
    """docs/objectives.md, of at least one run."""
    taken = sorted({(row.measured.revision, row.measured.machine, row.measured.date) for row in rows.values()})
    where = "; ".join(f"revision {revision}, {machine}, {date}" for revision, machine, date in taken)
    paragraphs = [
        "# Objectives on the default run",
        f"Written by `python benchmarks/objectives.py`: {where}.",
        INTRODUCTION,
        SETTINGS,
        "## Each run",
        f"![Win rates over the base and gains in instructions, by objective](images/{PLOT.name})",
        _runs(rows),
        "[metrics.md](metrics.md) says what each figure is. Intervals are of 95 %.",
        *_missing(rows),
        *_beside_sppo(rows),
        *_head_to_head(rows),
        CANNOT,
    ]
    return "\n\n".join(paragraphs) + "\n"


def _runs(rows: Mapping[Key, Row]) -> str:
    head = ["judge", "objective", "seed", *SHOWN]
    lines = [
        [key.judge, f"`{key.objective}`", str(key.seed), *cells(row.figures, SHOWN.values())]
        for key, row in rows.items()
    ]  # fmt: skip
    return markdown([head, *sorted(lines)])


def _missing(rows: Mapping[Key, Row]) -> Iterator[str]:
    missing: dict[str, list[str]] = {}
    for key in KEYS:
        if key not in rows:
            missing.setdefault(f"`{key.judge}`, seed {key.seed}", []).append(f"`{key.objective}`")
    if missing:
        yield "Not played yet: " + "; ".join(f"with {where} {', '.join(each)}" for where, each in missing.items()) + "."


def _beside_sppo(rows: Mapping[Key, Row]) -> Iterator[str]:
    found = {
        (judge, objective): beside
        for judge, objective in itertools.product(JUDGES, OBJECTIVES)
        if objective != "sppo" and (beside := against(rows, judge, objective))
    }
    if not found:
        return
    yield "## Beside SPPO"
    yield (
        "A prompt's figure less that of SPPO with the same judge and seed, the mean over seeds. "
        "Won, tied and lost count the prompts of all seeds, by the win rate. Intervals are over prompts."
    )
    head = ["judge", "objective", "seeds", "win rate over the base", "won – tied – lost", "instructions followed"]
    lines = [
        [judge, f"`{objective}`", str(each.seeds), _interval(each.win_rate, "+.3f"), _counts(each.win_rate),
         _interval(each.followed, "+.3f")]
        for (judge, objective), each in found.items()
    ]  # fmt: skip
    yield markdown([head, *lines])
    baselines = {key: each for key, each in found.items() if key[1] in {"dpo", "ipo"}}
    if baselines:
        yield "\n".join(_order(baselines))


def _order(found: Mapping[tuple[str, str], Against]) -> Iterator[str]:
    """Whether the paper's order shows, in a sentence a pair."""
    yield "The paper has SPPO before DPO and IPO (arXiv 2405.00675, table 1). Here, by the win rate over the base:\n"
    said = {
        "worse": "the paper's order shows: SPPO is ahead",
        "better": "the opposite of the paper's order shows: SPPO is behind",
        "undecided": "the paper's order does not show: the interval includes no difference, or fewer than "
        f"{FEWEST} prompts differ",
    }
    for (judge, objective), each in found.items():
        yield f"- against `{objective}` with the judge `{judge}`, {said[each.win_rate.direction]}."


def _head_to_head(rows: Mapping[Key, Row]) -> Iterator[str]:
    tables = [
        (judge, asked, found)
        for judge, asked in itertools.product(JUDGES, ASKED)
        if (found := matrix(rows, judge, asked))
    ]
    if not tables:
        return
    yield "## Head to head"
    yield (
        "Answers of the best models to the same held-out prompts, with the same seed. A cell counts the contests that "
        "the row's objective wins, ties and loses against the column's. Its win rate follows, ties being half a win."
    )
    for judge, asked, found in tables:
        by = f"`{ASKED[asked]}`, on which none is trained" if ASKED[asked] else "the judge of the training"
        yield f"Trained on `{judge}`, compared by {by}:"
        head = ["", *(f"`{objective}`" for objective in OBJECTIVES)]
        yield markdown([head, *([f"`{first}`", *_cells(found, first)] for first in OBJECTIVES)])


def _cells(found: Mapping[tuple[str, str], Evidence], first: str) -> list[str]:
    pairs = [found.get((first, second)) for second in OBJECTIVES]
    return ["" if each is None else f"{_counts(each)}, {_interval(each, '.3f')}" for each in pairs]


def _interval(evidence: Evidence, written: str) -> str:
    value, low, high = (format(each, written) for each in vars(evidence.interval).values())
    return f"{value} [{low}, {high}]"


def _counts(evidence: Evidence) -> str:
    return f"{evidence.signs.wins} – {evidence.signs.ties} – {evidence.signs.losses}"


def draw(rows: Mapping[Key, Row], path: Path) -> None:
    """Each run's figures with their intervals. Rounded, so that the last bits do not show."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    for axes, (title, (name, even)) in zip(figure.subplots(1, len(PLOTTED)), PLOTTED.items(), strict=True):
        for number, judge in enumerate(JUDGES):
            places, values, ends = _points(rows, judge, name)
            axes.errorbar(places, values, ends, fmt="o", color=f"C{number}", markersize=4, linewidth=1, label=judge)
        axes.axhline(even, color="black", linewidth=0.8, linestyle=":")
        axes.set_xticks(range(len(OBJECTIVES)), OBJECTIVES)
        axes.set_title(title, fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "objectives"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _points(
    rows: Mapping[Key, Row], judge: str, name: str
) -> tuple[list[float], list[float], tuple[list[float], list[float]]]:
    """Places and values of a judge's runs, and how far their intervals reach below and above."""
    places, values, below, above = [], [], [], []
    for key, row in rows.items():
        figures = row.figures
        if key.judge != judge or name not in figures:
            continue
        value, low, high = (round(figures[f"{name}{end}"], 4) for end in ("", "_low", "_high"))
        beside = (list(JUDGES).index(judge) - 0.5) * 0.4 + (SEEDS.index(key.seed) - 1) * 0.08
        places.append(round(list(OBJECTIVES).index(key.objective) + beside, 4))
        values.append(value)
        below.append(round(value - low, 4))
        above.append(round(high - value, 4))
    return places, values, (below, above)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play what is missing, and write page and plot after each run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=list(JUDGES))
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument("--place", type=Path, default=ROOT / "runs" / "objectives")
    asked = parser.parse_args(arguments)
    revision()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    asked.place.mkdir(parents=True, exist_ok=True)
    for key in KEYS:
        chosen = key.judge in asked.judges and key.objective in asked.only and key.seed in asked.seeds
        if chosen and not read(KEPT, key):
            play(KEPT, asked.place, key)
        rows = {each: row for each in KEYS if (row := read(KEPT, each))}
        if chosen:
            PAGE.write_text(page(rows), encoding="utf-8")
            draw(rows, PLOT)


if __name__ == "__main__":
    main()
