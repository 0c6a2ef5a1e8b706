"""What each choice of the default run does: one factor at a time, a run each, as a table in docs/default-run.md.

    python benchmarks/variants.py
    python benchmarks/variants.py --only "K = 8" "192 tokens"

plays `sppo run` with each of `VARIANTS` into a folder of its own, which begins as a copy of the default's: what a
changed value does not touch, such as the base's answers, is not made again. A run that is there already is not played
again, and the page is written after each run, so that an interruption costs one run at most.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from game import markdown
from results import ROOT, Played, played, record_of, revision

INSTRUCTIONS, ENCODER = '{model: "instructions:package:sppo", weight: %s}', "{model: package:sppo, temperature: %s}"
UNBROKEN = "{model: unbroken, weight: %s}"


def judge(instructions: float = 2, temperature: float = 0.5, unbroken: float = 0.25) -> str:
    """The mixture with other weights; 0 leaves a member out."""
    members = [INSTRUCTIONS % instructions] if instructions else []
    members += [ENCODER % temperature] if temperature else []
    members += [UNBROKEN % unbroken] if unbroken else []
    return f"judge.mixture=[{', '.join(members)}]"


VARIANTS: Mapping[str, Sequence[str]] = {
    "the default": (),
    "checks alone": (judge(temperature=0, unbroken=0),),
    "no checks": (judge(instructions=0),),
    "checks weigh half": (judge(instructions=1),),
    "endings do not count": (judge(unbroken=0),),
    "encoder twice as strong": (judge(temperature=0.25),),
    "encoder half as strong": (judge(temperature=1),),
    "learning rate 5e-6": ("train.learning_rate=5e-6",),
    "learning rate 2e-5": ("train.learning_rate=2e-5",),
    "K = 3": ("generate.responses=3",),
    "K = 8": ("generate.responses=8",),
    "temperature 0.7": ("generate.temperature=0.7",),
    "96 tokens": ("generate.max_tokens=96",),
    "192 tokens": ("generate.max_tokens=192",),
    "48 prompts an iteration": ("prepare.prompts_per_iteration=48",),
    "two epochs": ("train.epochs=2",),
    "batches of 4 pairs": ("train.global_batch=4",),
    "pairs by probability": ("rank.selection=best-worst-probability",),
    "all responses": ("rank.selection=all",),
    "no prompts with instructions": (f"prompts={ROOT / 'sppo' / 'preparing' / 'bundled' / 'prompts.jsonl'}",),
}
"""What differs from the preset, by its name."""
FIGURES = {
    "instructions, trained kinds": "final/instructions_trained_gain",
    "instructions, other kinds": "final/instructions_other_gain",
    "encoder's P": "eval/second_mean_probability_vs_base",
    "win rate": "eval/win_rate_vs_base",
    "cut in training": "generate/truncated_fraction",
    "cut in evaluation": "eval/truncated_fraction",
    "tokens": "eval/mean_length",
}
"""What the table shows, by the heads of its columns."""


NOT_SHARED = shutil.ignore_patterns("model-*", "published-*", "report-*", "mlflow*", "tracking", "current.json")
"""What a run makes anew whatever is changed, and what says that it was played."""


def played_from(default: Path, place: Path, values: Sequence[str]) -> Played:
    """A run that begins as a copy of the default's, unless it is there or is the default."""
    if place != default and not place.exists():
        shutil.copytree(default, place, ignore=NOT_SHARED)
    return played(0, place, values)


def cells(figures: Mapping[str, float], named: Iterable[str]) -> list[str]:
    """Figures of a run as they are shown, each with its interval if it has one."""
    written_out = []
    for figure in named:
        value, low, high = (figures.get(f"{figure}{end}") for end in ("", "_low", "_high"))
        written = ".0f" if figure == "eval/mean_length" else "+.3f" if "gain" in figure else ".3f"
        shown = "–" if value is None else format(value, written)
        written_out.append(shown if low is None else f"{shown} [{low:{written}}, {high:{written}}]")
    return written_out


def row(name: str, run: Played) -> list[str]:
    """A run as a row."""
    return [name, *cells(run.figures, FIGURES.values()), run.measured.revision]


def page(runs: Mapping[str, Played]) -> str:
    """docs/default-run.md."""
    missing = [name for name in VARIANTS if name not in runs]
    lines = [
        "# What each choice of the default run does",
        "",
        "Written by `python benchmarks/variants.py`: the default run with seed 0 and one thing changed, a run each.",
        "One run is one draw: compare a difference with the spread over seeds in [results.md](results.md) first.",
        "",
        markdown([["", *FIGURES, "revision"], *(row(*each) for each in runs.items())]),
        "",
        "Gains are shares of instructions followed at the end less those of the base, with 95 % intervals.",
    ]
    if missing:
        lines += ["", f"Not played yet: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Play what is missing, and write the page after each run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--place", type=Path, default=ROOT / "runs" / "variants")
    asked = parser.parse_args()
    revision()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    runs: dict[str, Played] = {}
    places = {name: (asked.place / name.replace(" ", "-")).absolute() for name in VARIANTS}
    default = next(iter(places.values()))
    for name, values in VARIANTS.items():
        if name in asked.only or record_of(places[name]).exists() or places[name] == default:
            runs[name] = played_from(default, places[name], values)
            (ROOT / "docs" / "default-run.md").write_text(page(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
