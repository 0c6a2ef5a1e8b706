"""One of two runs that are compared: its report, and what its best model did on each held-out prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sppo.preparing.recorded import recorded_config
from sppo.reporting.compare.locate import locate
from sppo.reporting.report import RunReport, collect
from sppo.store import keys, tables
from sppo.store.base import Store
from sppo.store.lineage import Lineage
from sppo.store.opening import open_store

Values = NDArray[np.float64]
EVEN = 0.5
"""A model's win rate over itself, and the judge's probability."""


@dataclass(frozen=True)
class Answered:
    """A held-out prompt, and how the run's best model fared on it against the base."""

    prompt_id: str
    prompt: str
    answers: tuple[str, ...]
    win_rate: float
    """Share of the prompt's answer pairs that the best model wins."""
    probability: float
    """Mean probability of winning, over the same pairs."""
    length_gap: float
    """Mean tokens of the best model's answers less those of the base's."""


@dataclass(frozen=True)
class Side:
    """A run as it enters a comparison."""

    name: str
    """How it is called: A or B."""
    report: RunReport
    held_out: tuple[Answered, ...]
    win_rates: Mapping[int, Sequence[float]]
    """Of each iteration over the base, a prompt each, in the order of `held_out`."""
    training_prompts: Mapping[str, str]
    """Digests of the tables of prompts that the iterations play, by file name."""

    @property
    def best_win_rates(self) -> Values:
        """Of the best model over the base, shape (N,)."""
        return np.array([each.win_rate for each in self.held_out])

    @property
    def length_gaps(self) -> Values:
        """Mean tokens of the best model's answers less those of the base's, shape (N,)."""
        return np.array([each.length_gap for each in self.held_out])

    @property
    def inputs(self) -> Mapping[str, str]:
        """Digests of what the last evaluation compared, and with what."""
        return self.report.iterations[-1].inputs

    @property
    def best_name(self) -> str:
        """The best model in words."""
        best = self.report.best
        return f"iteration {best.iteration}{' (dropped)' if best.dropped else ''}" if best else "the base model"


def read_side(name: str, run: str) -> Side:
    """Gather a run that is to be compared.

    Args:
        name: A or B.
        run: see `sppo.reporting.compare.locate.locate`.

    Raises:
        ConfigError: if no run is there, or none of its iterations is evaluated.
        InfrastructureError: if a store or server fails, or something committed is damaged.
    """
    config = recorded_config(locate(run))
    store = open_store(config.output_uri)
    report = collect(config, store)
    lineage = Lineage(config, store)
    comparisons = {each.iteration: _over_base(lineage, each.iteration) for each in report.iterations}
    prepared = store.manifest(lineage.prepared_key)
    assert prepared is not None, "a run with a recorded configuration is prepared"
    played = {keys.prompts_file(t) for t in range(1, config.iterations + 1)}
    return Side(
        name=name,
        report=report,
        held_out=_held_out(lineage, report, comparisons),
        win_rates={t: tuple(row["win_rate"] for row in rows) for t, rows in comparisons.items()},
        training_prompts={file.path: file.sha256 for file in prepared.files if file.path in played},
    )


def _over_base(lineage: Lineage, iteration: int) -> list[dict[str, Any]]:
    folder = lineage.store.fetch(lineage.evaluation_key(iteration))
    rows = tables.read(folder / keys.COMPARISONS_FILE, tables.COMPARISONS)
    return [row for row in rows if row["opponent"] == "base"]


def _held_out(
    lineage: Lineage, report: RunReport, comparisons: Mapping[int, Sequence[Mapping[str, Any]]]
) -> tuple[Answered, ...]:
    """The held-out prompts with the best model's answers; the base model, if it is the best, is even with itself."""
    shown = report.best or report.iterations[-1]
    verdict = lineage.verdict(shown.iteration)
    assert verdict is not None, "what is reported is evaluated"
    base = _answers(lineage.store, verdict["answers"]["base"])
    best = _answers(lineage.store, verdict["answers"]["new"]) if report.best else base
    rows = comparisons[shown.iteration]
    assert [row["prompt_id"] for row in rows] == list(best), "every held-out prompt is answered and compared"
    return tuple(
        Answered(
            prompt_id=(prompt_id := row["prompt_id"]),
            prompt=best[prompt_id][0]["prompt"],
            answers=tuple(answer["text"] for answer in best[prompt_id]),
            win_rate=row["win_rate"] if report.best else EVEN,
            probability=row["probability"] if report.best else EVEN,
            length_gap=_mean_tokens(best[prompt_id]) - _mean_tokens(base[prompt_id]),
        )
        for row in rows
    )


def _answers(store: Store, key: str) -> dict[str, list[dict[str, Any]]]:
    """A model's answers by prompt, in the order of the held-out prompts."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in tables.read(store.fetch(key) / keys.ANSWERS_FILE, tables.ANSWERS):
        found.setdefault(row["prompt_id"], []).append(row)
    return found


def _mean_tokens(answers: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([answer["tokens"] for answer in answers]))
