"""What two runs' results say about which run is better.

Two win rates over a base compare only where everything else is the same: the base, the judge, the prompts, and how
answers were sampled. Then each prompt has a figure from either run, and the difference is taken prompt by prompt, which
takes the prompts' own difficulty out of the interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sppo.algorithm.sign_test import SignTest, sign_test
from sppo.config.run import flatten
from sppo.config.sections.evaluate import JUDGES
from sppo.config.sections.section import OF_A_RUN
from sppo.evaluation.length_control import length_controlled_win_rate
from sppo.evaluation.statistics import FEWEST, Interval, bca_interval, mean_interval
from sppo.reporting.compare.side import EVEN, Side, Values
from sppo.reporting.report import IterationReport
from sppo.seeds import derive_seed

Direction = Literal["better", "worse", "undecided"]

_SAMPLING = ("evaluate.temperature", "evaluate.top_p", "evaluate.max_tokens")
_NO_JUDGING = {"judge.batch_tokens", "judge.mixture"}
"""One moves a logit's last digits only, the other is in the judge's digest."""


@dataclass(frozen=True)
class Evidence:
    """Something measured on every held-out prompt, and the value at which neither run is ahead."""

    interval: Interval
    signs: SignTest
    """Prompts for B as wins, for A as losses."""
    even: float

    @property
    def differing(self) -> int:
        """Prompts on which one of the runs is ahead."""
        return self.signs.wins + self.signs.losses

    @property
    def direction(self) -> Direction:
        """What it says of B: the whole 95 % interval must lie on one side, and enough prompts must differ."""
        if self.differing < FEWEST or self.interval.low <= self.even <= self.interval.high:
            return "undecided"
        return "better" if self.interval.low > self.even else "worse"


@dataclass(frozen=True)
class Change:
    """A value in which the runs differ; None where a run does not have it."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Changes:
    """What was done differently."""

    decisive: tuple[Change, ...]
    """Settings that determine results."""
    free: tuple[Change, ...]
    """Settings that change no result."""
    content: tuple[Change, ...]
    """Digests of what the runs read."""

    def __bool__(self) -> bool:
        return bool(self.decisive or self.free or self.content)


@dataclass(frozen=True)
class Comparison:
    """Two runs, A and B, and what their results say of B against A."""

    a: Side
    b: Side
    changes: Changes
    obstacles: Mapping[str, str]
    """What the win rates depend on and is not the same, with what it is in A and in B; empty: they compare."""
    difference: Evidence | None
    """Win rate over the base of B's best model less that of A's; None where the win rates do not compare."""
    length_controlled: Interval | None
    """The same of the length-controlled win rates."""
    by_iteration: Mapping[int, Evidence]
    """The difference of each iteration that both runs evaluated; empty where the win rates do not compare."""
    head_to_head: Evidence | None = None
    """Win rate of B's best model's answers over those of A's, if a judge was asked."""
    held_before: str = ""
    """That judge."""

    @property
    def same_model(self) -> bool:
        """Whether the best models are one and the same."""
        return self.a.report.best_digest == self.b.report.best_digest

    @property
    def direction(self) -> Direction | None:
        """The verdict on B; None where neither the win rates compare nor a judge was asked."""
        if self.same_model:
            return "undecided"
        evidence = self.difference or self.head_to_head
        return evidence.direction if evidence else None


def compare(a: Side, b: Side) -> Comparison:
    """Compare two runs by what they committed."""
    changes = _changes(a, b)
    obstacles = _obstacles(a, b, changes)
    comparable = not obstacles
    shared = a.win_rates.keys() & b.win_rates.keys() if comparable else set()
    return Comparison(
        a=a,
        b=b,
        changes=changes,
        obstacles=obstacles,
        difference=paired(a, b, a.best_win_rates, b.best_win_rates) if comparable else None,
        length_controlled=_length_controlled(a, b) if comparable else None,
        by_iteration={t: paired(a, b, np.array(a.win_rates[t]), np.array(b.win_rates[t])) for t in sorted(shared)},
    )


def paired(a: Side, b: Side, of_a: Values, of_b: Values) -> Evidence:
    """The mean difference of two figures of every prompt, each of shape (N,), B's less A's."""
    return _evidence(a, b, of_b - of_a, 0.0)


def even_contest(a: Side, b: Side, win_rates: Values) -> Evidence:
    """The mean of B's win rates over A, shape (N,)."""
    return _evidence(a, b, win_rates, EVEN)


def _evidence(a: Side, b: Side, values: Values, even: float) -> Evidence:
    interval = mean_interval(values, *_resampling(a, b))
    return Evidence(interval, sign_test(values - even), even)


def _length_controlled(a: Side, b: Side) -> Interval:
    def difference(weights: Values) -> Values:
        of_a, of_b = (length_controlled_win_rate(s.best_win_rates, s.length_gaps, weights=weights) for s in (a, b))
        return of_b - of_a

    return bca_interval(difference, len(a.held_out), *_resampling(a, b))


def _resampling(a: Side, b: Side) -> tuple[int, int]:
    """Number and seed of the resamples; the same whichever of the runs comes first."""
    return max(s.report.config.evaluate.bootstrap for s in (a, b)), derive_seed(0, "bootstrap", "compare")


def _obstacles(a: Side, b: Side, changes: Changes) -> dict[str, str]:
    """What win rates over the base depend on, besides the model, where it differs."""
    found = {}
    if [each.prompt_id for each in a.held_out] != [each.prompt_id for each in b.held_out]:
        shared = {each.prompt_id for each in a.held_out} & {each.prompt_id for each in b.held_out}
        found["held-out prompts"] = f"{len(a.held_out)} and {len(b.held_out)}, {len(shared)} of them in both"
    for what, digest, key in (("base model", "base", "base_model"), ("judge", "judge", "preference_model")):
        if a.inputs[digest] != b.inputs[digest]:
            uris = [str(getattr(side.report.config, key)) for side in (a, b)]
            found[what] = f"{uris[0]} and {uris[1]}" if uris[0] != uris[1] else f"{uris[0]}, whose content changed"
    for change in changes.decisive:
        judging = change.key.startswith("judge.") and change.key not in _NO_JUDGING
        if judging or change.key in _SAMPLING:
            found[change.key] = f"{change.a} and {change.b}"
    return found


def _changes(a: Side, b: Side) -> Changes:
    settings = _differing(*(flatten(side.report.config.asked()) for side in (a, b)))
    decisive = {key for side in (a, b) for key in side.report.config.read_by(*OF_A_RUN)}
    return Changes(
        decisive=tuple(each for each in settings if each.key in decisive),
        free=tuple(each for each in settings if each.key not in decisive),
        content=tuple(_differing(_content(a), _content(b))),
    )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    return [Change(key, a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)]


_READ = {
    "base": "base model",
    "judge": "judge",
    **{f"{name}_judge": f"{name} judge" for name in JUDGES},
    "instructions": "instructions",
}


def _content(side: Side) -> dict[str, str]:
    """Digests of what a run read, by what it is."""
    read = {what: side.inputs[name] for name, what in _READ.items() if name in side.inputs}
    played = {f"prompts, {name}": digest for name, digest in side.training_prompts.items()}
    return {**read, "held-out prompts": side.inputs["held_out"], **played}


def measured_alike(comparison: Comparison, name: str, a: IterationReport, b: IterationReport) -> bool:
    """Whether a figure of an iteration means the same in both runs, so that its difference means something."""
    obstacles = comparison.obstacles.keys()
    if name.startswith("eval/instructions"):
        asked = [side.report.config.evaluate.instructions for side in (comparison.a, comparison.b)]
        prompts = [(each.inputs.get("instructions"), each.figures.get("eval/instructions_prompts")) for each in (a, b)]
        return prompts[0] == prompts[1] and asked[0].max_tokens == asked[1].max_tokens
    if name == "eval/mean_length":
        return not obstacles & {"held-out prompts", *_SAMPLING}
    for judge in JUDGES:
        if name.startswith(f"eval/{judge}_"):
            return not obstacles - {"judge"} and a.inputs.get(f"{judge}_judge") == b.inputs.get(f"{judge}_judge")
    if name.endswith("_vs_previous"):
        return not obstacles and a.inputs["previous"] == b.inputs["previous"]
    return not obstacles
