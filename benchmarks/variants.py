"""What each choice of the default run does: one factor at a time, a run each, as a table in docs/default-run.md.

    python benchmarks/variants.py
    python benchmarks/variants.py --only "K = 8" "192 tokens"

plays `sppo run` with each of `VARIANTS` into a folder of its own, which begins as a copy of the default's: what a
changed value does not touch, such as the base's answers, is not made again. After each run its figures are kept in
benchmarks/played/default-run, and the page is written from all that are there. What is there is not played again, also
after an interruption or on another machine; delete a file to play its run anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from game import markdown
from results import ROOT, Measured, played, revision

from sppo.config.reading import read_overrides
from sppo.config.run import RunConfig, flatten, kinds, load_preset
from sppo.config.sections.judge import MixtureMember

INSTRUCTIONS, ENCODER = (
    '{model: "instructions:package:sppo", weight: %s, temperature: %s}',
    "{model: package:sppo, temperature: %s}",
)
UNBROKEN = "{model: unbroken, weight: %s}"


def judge(instructions: float = 2, temperature: float = 0.5, unbroken: float = 0.25, sharp: float = 0.01) -> str:
    """The mixture with other weights, or another temperature of the checks; 0 leaves a member out."""
    members = [INSTRUCTIONS % (instructions, sharp)] if instructions else []
    members += [ENCODER % temperature] if temperature else []
    members += [UNBROKEN % unbroken] if unbroken else []
    return f"judge.mixture=[{', '.join(members)}]"


COUNTED = judge(sharp=1)
VARIANTS: Mapping[str, Sequence[str]] = {
    "the default": (),
    "checks counted": (COUNTED,),
    "checks counted, learning rate 1e-5": (COUNTED, "train.learning_rate=1e-5"),
    "checks counted, learning rate 4e-5": (COUNTED, "train.learning_rate=4e-5"),
    "checks counted, 192 tokens": (COUNTED, "generate.max_tokens=192"),
    "checks counted, temperature 0.7": (COUNTED, "generate.temperature=0.7"),
    "checks counted, encoder twice as strong": (judge(temperature=0.25, sharp=1),),
    "checks alone": (judge(temperature=0, unbroken=0),),
    "no checks": (judge(instructions=0),),
    "checks weigh half": (judge(instructions=1),),
    "endings do not count": (judge(unbroken=0),),
    "endings count twice": (judge(unbroken=0.5),),
    "endings count four times": (judge(unbroken=1),),
    "endings count twice, 192 tokens": (judge(unbroken=0.5), "generate.max_tokens=192"),
    "learning rate 1e-5, all responses": ("train.learning_rate=1e-5", "rank.selection=all"),
    "learning rate 1e-5, five iterations of 72 prompts": (
        "train.learning_rate=1e-5",
        "iterations=5",
        "prepare.prompts_per_iteration=72",
    ),
    "learning rate 1e-5, encoder twice as strong": (judge(temperature=0.25), "train.learning_rate=1e-5"),
    "endings count twice, learning rate 1e-5": (judge(unbroken=0.5), "train.learning_rate=1e-5"),
    "encoder twice as strong": (judge(temperature=0.25),),
    "learning rate 1e-5": ("train.learning_rate=1e-5",),
    "eta = 10": ("train.eta=10",),
    "K = 3": ("generate.responses=3",),
    "K = 8": ("generate.responses=8",),
    "temperature 0.7": ("generate.temperature=0.7",),
    "96 tokens": ("generate.max_tokens=96",),
    "48 prompts an iteration": ("prepare.prompts_per_iteration=48",),
    "120 prompts an iteration": ("prepare.prompts_per_iteration=120",),
    "two iterations": ("iterations=2",),
    "five iterations of 72 prompts": ("iterations=5", "prepare.prompts_per_iteration=72"),
    "two epochs": ("train.epochs=2", "train.schedule_epochs=2"),
    "batches of 4 pairs": ("train.global_batch=4",),
    "pairs by probability": ("rank.selection=best-worst-probability",),
    "all responses": ("rank.selection=all",),
    "adapters of rank 16, learning rate 2e-4": ("train.lora.rank=16", "train.learning_rate=2e-4"),
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
KEPT = ROOT / "benchmarks" / "played" / "default-run"
"""What the runs left, a file each."""


class Row(NamedTuple):
    """What is kept of a run."""

    settings: Mapping[str, Any]
    """What the preset and the command line said, by dotted name."""
    measured: Measured
    figures: Mapping[str, float]


def kept_as(name: str) -> Path:
    """Where a run's figures are kept."""
    return KEPT / f"{name.replace(' ', '-')}.json"


def read(name: str) -> Row | None:
    """What is kept of a run; None where it was not played, or with other settings."""
    kept = read_kept(kept_as(name), VARIANTS[name])
    return Row(**kept) if kept else None


def read_kept(path: Path, values: Sequence[str]) -> dict[str, Any] | None:
    """What a file keeps of a run, by name; None where there is none, or its settings are not those of the values."""
    if not path.exists():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    kept["measured"] = Measured(**kept["measured"])
    return kept if kept["settings"] == settings(values) else None


def settings(values: Sequence[str]) -> dict[str, Any]:
    """What the preset and KEY=VALUE arguments say now, without the folder of this checkout."""
    told = flatten(load_preset("cpu")) | read_overrides(values, kinds(RunConfig))
    told["judge.mixture"] = [MixtureMember.model_validate(each).model_dump() for each in told["judge.mixture"]]
    return {key: value.replace(f"{ROOT}/", "") if isinstance(value, str) else value for key, value in told.items()}


def play(name: str, default: Path, place: Path) -> None:
    """Play a run, which begins as a copy of the default's where that is there, and keep its figures."""
    if place != default and default.exists() and not place.exists():
        shutil.copytree(default, place, ignore=NOT_SHARED)
    run = played(0, place, VARIANTS[name])
    shown = with_ends(run.figures, FIGURES.values())
    kept = {"settings": settings(VARIANTS[name]), "measured": run.measured._asdict(), "figures": shown}
    KEPT.mkdir(parents=True, exist_ok=True)
    kept_as(name).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def with_ends(figures: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Those figures, with the ends of their intervals."""
    asked = [name + end for name in names for end in ("", "_low", "_high")]
    return {name: figures[name] for name in asked if name in figures}


def cells(figures: Mapping[str, float], named: Iterable[str]) -> list[str]:
    """Figures of a run as they are shown, each with its interval if it has one."""
    written_out = []
    for figure in named:
        value, low, high = (figures.get(f"{figure}{end}") for end in ("", "_low", "_high"))
        written = ".0f" if figure == "eval/mean_length" else "+.3f" if "gain" in figure else ".3f"
        shown = "–" if value is None else format(value, written)
        written_out.append(shown if low is None else f"{shown} [{low:{written}}, {high:{written}}]")
    return written_out


def page() -> str:
    """docs/default-run.md, of all runs that are kept."""
    rows = {name: row for name in VARIANTS if (row := read(name))}
    missing = [name for name in VARIANTS if name not in rows]
    shown = [[name, *cells(row.figures, FIGURES.values()), row.measured.revision] for name, row in rows.items()]
    machines = "; ".join(dict.fromkeys(row.measured.machine for row in rows.values()))
    lines = [
        "# What each choice of the default run does",
        "",
        "Written by `python benchmarks/variants.py`: the default run with seed 0 and one thing changed, a run each.",
        "One run is one draw: compare a difference with the spread over seeds in [results.md](results.md) first.",
        "The same seed on another processor is another draw too, as it rounds otherwise.",
        "",
        markdown([["", *FIGURES, "revision"], *shown]),
        "",
        "Gains are shares of instructions followed at the end less those of the base, with 95 % intervals. A gain of",
        "exactly 0 says that the gate kept the base; the other figures are then those of the iteration it refused.",
        "Until revision e7c4688 a run's figures are those of the last iteration that its gate kept. Since then they",
        "are those of the kept one with the highest mean probability.",
        "In the default, the answer that follows more instructions surely wins. With *checks counted*, the default of",
        "before, an instruction more is a fixed step of the judge's logit.",
        f"Played on {machines}.",
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
    places = {name: (asked.place / name.replace(" ", "-")).absolute() for name in VARIANTS}
    for name in asked.only:
        if not read(name):
            play(name, next(iter(places.values())), places[name])
        (ROOT / "docs" / "default-run.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
