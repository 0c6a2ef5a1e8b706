"""The default run with several seeds, on one machine and one revision, as docs/results.md and the README's table.

    python benchmarks/results.py
    python benchmarks/results.py --seeds 0 1 2 --place runs/results

plays `sppo run seed=N` into a folder a seed, one after the other, and writes both pages from the runs' own reports. A
run that is there already is not played again, so that an interruption costs one run; with another revision, choose
another place. `make results` does this.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from game import markdown
from loop import play
from run import evaluation_share, final_seconds, processor

from sppo.config.sections.evaluate import JUDGES
from sppo.errors import GateFailedError
from sppo.preparing.recorded import recorded_config
from sppo.reporting.report import SUMMARY_COLUMNS, RunReport, collect, headline, summary_rows
from sppo.store.opening import open_store

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
"""What the README's table stands between."""
WRITTEN = (
    "README.md", "docs/results.md", "docs/judges.md", "docs/default-run.md", "docs/objectives.md",
    "docs/images/objectives.svg", "benchmarks/played/",
)  # fmt: skip
"""Files and folders that may differ from the commit, as they are written from runs."""


class Measured(NamedTuple):
    """What a run took; kept beside it, as a run that is there already cannot be timed again."""

    revision: str
    machine: str
    date: str
    minutes: float
    gib: float
    gigabytes: float


class Played(NamedTuple):
    """A run that is there, with what it took."""

    seed: int
    report: RunReport
    measured: Measured
    evaluation: float
    final: float

    @property
    def figures(self) -> Mapping[str, float]:
        """See `figures_of`."""
        return figures_of(self.report)


def figures_of(report: RunReport) -> Mapping[str, float]:
    """Those of the best iteration, and those of the run's end."""
    best = report.best or report.iterations[-1]
    return {**report.iterations[-1].figures, **best.figures}


def revision() -> str:
    """The commit that is checked out.

    Raises:
        SystemExit: if files differ from it, whose results would bear a wrong name.
    """
    changed = subprocess.run(
        ["git", "-c", "core.quotePath=off", "status", "--porcelain"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    if [line for line in changed.stdout.splitlines() if not line[3:].startswith(WRITTEN)]:
        raise SystemExit("files differ from the commit that is checked out; commit them first")
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    return said.stdout.strip()


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Put a text between two lines of a page, in the place of what stands there."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def record_of(place: Path) -> Path:
    """Where what a run took is kept."""
    return place.with_name(f"{place.name}.json")


def take(place: Path, arguments: Sequence[str]) -> Measured:
    """Play a run, or go on with it, and say what that took."""
    begun = revision()  # what is changed while it plays must not cost the run
    code, seconds, peak = play([f"output_uri={place}", *arguments], network=True)
    if code not in {0, GateFailedError.exit_code}:
        raise SystemExit(f"{' '.join(arguments)}: the run ended with {code}")
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Measured(begun, processor(), today, seconds / 60, peak / 2**30, size / 1e9)


def measure(seed: int, place: Path, arguments: Sequence[str]) -> Measured:
    """Play a run, unless it is there, and keep what it took."""
    record = record_of(place)
    if not record.exists():
        record.write_text(json.dumps(take(place, [f"seed={seed}", *arguments])._asdict(), indent=1))
    return Measured(**json.loads(record.read_text()))


def played(seed: int, place: Path, arguments: Sequence[str]) -> Played:
    """A run's report with what it took."""
    taken = measure(seed, place, arguments)
    config = recorded_config(str(place))
    return Played(
        seed, collect(config, open_store(config.output_uri)), taken, evaluation_share(place), final_seconds(place) / 60
    )


class Row(NamedTuple):
    """A line of the table: a value a seed, how a value is written, and whether the README shows it too."""

    label: str
    values: Sequence[float]
    written: str
    brief: bool


OTHERS = (("win_rate", "win rate over the base", False), ("mean_probability", "mean probability", True))
"""What a further judge says, how it is called, and whether the README shows it."""
FIGURES = (
    ("eval/win_rate_vs_base", "win rate over the base, by the training judge", True),
    ("eval/mean_probability_vs_base", "mean probability, by the training judge", True),
    ("eval/lc_win_rate_vs_base", "win rate at equal length", False),
    *(
        (f"eval/{judge}_{what}_vs_base", f"{words}, by the {judge} judge", brief)
        for judge in JUDGES
        for what, words, brief in OTHERS
    ),
    ("final/instructions_trained_base", "instructions of trained kinds followed by the base", True),
    ("final/instructions_trained", "instructions of trained kinds followed", True),
    ("final/instructions_trained_gain", "gain", True),
    ("final/instructions_trained_gain_low", "gain, lower end of its 95 % interval", True),
    ("final/instructions_other_base", "instructions of other kinds followed by the base", False),
    ("final/instructions_other", "instructions of other kinds followed", False),
    ("final/instructions_other_gain", "gain on kinds that were not trained on", True),
    ("final/instructions_other_gain_low", "gain on them, lower end of its 95 % interval", False),
    ("generate/truncated_fraction", "training responses cut", False),
    ("eval/truncated_fraction", "held-out answers cut", True),
    ("eval/mean_length_base", "tokens of an answer of the base", False),
    ("eval/mean_length", "tokens of an answer", False),
    ("train/reference_audit_mean_abs", "sampler against trainer, nats a token", False),
)
"""Figures of a run with their names in the table, and whether the README shows them too."""


def rows(runs: Sequence[Played]) -> Iterator[Row]:
    """What the table shows, as far as it was measured."""
    yield Row("gate passed (1) or not (0)", [float(run.report.passed) for run in runs], ".2f", True)
    for name, label, brief in FIGURES:
        if all(name in run.figures for run in runs):
            written = ".1f" if "length" in name and "lc" not in name else ".3f"
            yield Row(label, [run.figures[name] for run in runs], written, brief)
    yield Row("minutes", [run.measured.minutes for run in runs], ".1f", True)
    yield Row("peak memory, GiB", [run.measured.gib for run in runs], ".2f", True)
    yield Row("disk, GB", [run.measured.gigabytes for run in runs], ".2f", True)
    yield Row("minutes of the questions at the end", [run.final for run in runs], ".1f", False)
    yield Row("evaluation's share of the iterations' work", [run.evaluation for run in runs], ".2f", False)


def table(runs: Sequence[Played], short: bool = False) -> str:
    """All runs, and their mean and spread where there are several, in Markdown."""
    several = len(runs) > 1
    heads = [f"seed {run.seed}" for run in runs] + ["mean", "standard deviation"] * several
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for row in rows(runs):
        if short and not row.brief:
            continue
        spread = [statistics.mean(row.values), statistics.stdev(row.values)] if several else []
        shown = [format(value, row.written) for value in (*row.values, *spread)]
        lines.append(f"| {row.label} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def counts(passed: Sequence[float], trained: Sequence[float], other: Sequence[float]) -> str:
    """How many seeds reached what, in words.

    Args:
        passed: 1 for each seed that passed its gate, 0 for another.
        trained: lower ends of the intervals of the gain in instructions of trained kinds.
        other: the same of other kinds.
    """

    def of(values: Sequence[float]) -> str:
        return f"{sum(value > 0 for value in values)} of {len(values)}"

    return (
        f"{of(passed)} seeds pass the gate. Clearly more instructions are followed, with the 95 % interval above 0: "
        f"of trained kinds by {of(trained)} seeds, of other kinds by {of(other)}."
    )


def page(runs: Sequence[Played], command: str) -> str:
    """docs/results.md."""
    config = runs[0].report.config
    taken = sorted({(run.measured.revision, run.measured.machine, run.measured.date) for run in runs})
    where = "; ".join(f"revision {revision}, {machine}, {date}" for revision, machine, date in taken)
    judges = [f"the {name} judge is `{uri}`" for name, uri in zip(JUDGES, config.evaluate.second_judge, strict=False)]
    members = ", ".join(f"`{member.model}`" for member in config.judge.mixture)
    counted = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
    of_members = f" of {members}" if members else ""
    paragraphs = (
        "# Results of the default run",
        f"Written by `{command}`: {where}.",
        f"`sppo run` with {counted} and nothing else changed: {config.prepare.prompts_per_iteration} prompts an "
        f"iteration, {config.generate.responses} responses of at most {config.generate.max_tokens} tokens to each, "
        f"steps of {config.train.global_batch} pairs. After each iteration {config.prepare.held_out} held-out prompts "
        "are answered, and at the end the held-out prompts with instructions that code checks.",
        f"The training judge is `{config.preference_model}`{of_members}; {'; '.join(judges)}. "
        "[metrics.md](metrics.md) says what each figure is.",
        table(runs),
        "Instructions of trained and other kinds are those of all prompts with instructions, asked once at the end. "
        "The tables of iterations count the first ones only, which the gate asks after each iteration.",
        "What it cannot say: a judge of 22 million weights is no person, and prompts with instructions that code can "
        "check are a small part of what people ask. The gain on kinds of instructions that were not trained on is the "
        "one that carries over. Times and memory are those of this machine, with whatever else it did.",
        "The same seed gives the same tables on the same machine and revision. Another machine or library version may "
        "round otherwise, and so sample other responses.",
        "## Each run",
        *(_iterations(run) for run in runs),
    )
    return "\n\n".join(paragraph.strip() for paragraph in paragraphs) + "\n"


def _iterations(run: Played) -> str:
    heads = [name.replace("|", "\\|") for name in SUMMARY_COLUMNS]
    return f"**Seed {run.seed}**: {headline(run.report)}\n\n{markdown([heads, *map(list, summary_rows(run.report))])}"


def main() -> None:
    """Play what is missing, and write both pages."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--place", type=Path, default=ROOT / "runs" / "results")
    parser.add_argument("values", nargs="*", help="KEY=VALUE of the configuration")
    asked = parser.parse_intermixed_args()
    revision()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    runs = [played(seed, (asked.place / f"seed-{seed}").absolute(), asked.values) for seed in asked.seeds]
    command = " ".join(["python", "benchmarks/results.py", *sys.argv[1:]])
    (ROOT / "docs" / "results.md").write_text(page(runs, command), encoding="utf-8")
    gains = ([run.figures[f"final/instructions_{kinds}_gain_low"] for run in runs] for kinds in ("trained", "other"))
    reached = counts([float(run.report.passed) for run in runs], *gains)
    write_between(ROOT / "README.md", BEGIN, END, f"{reached}\n\n{table(runs, short=True)}")


if __name__ == "__main__":
    main()
