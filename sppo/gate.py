"""The gate: after each iteration, go on, stop, or keep the previous model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sppo.config import RunConfig

Decision = Literal["continue", "stop", "keep-previous"]


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and one sentence on why."""

    decision: Decision
    reason: str


def decide(config: RunConfig, iteration: int, figures: Mapping[str, float]) -> Verdict:
    """Decide from an iteration's figures (`eval/...`, as tracked)."""
    gate = config.evaluate.gate
    name = "eval/win_rate_vs_previous"
    value, low, high = figures[name], figures[f"{name}_low"], figures[f"{name}_high"]
    seen = f"the win rate over the previous model is {value:.3f} [{low:.3f}, {high:.3f}]"
    if high < gate.keep_previous_below:
        return Verdict("keep-previous", f"{seen}, all of it below {gate.keep_previous_below}")
    if iteration >= config.iterations:
        return Verdict("stop", f"{seen}, and all {config.iterations} iterations are played")
    if value < gate.stop_below:
        return Verdict("stop", f"{seen}, below {gate.stop_below}")
    return Verdict("continue", seen)
