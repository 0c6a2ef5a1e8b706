"""The gate: after each iteration, go on, stop, or keep the previous model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from sppo.config.run import RunConfig
from sppo.config.sections.evaluate import JUDGES, GateConfig

Decision = Literal["continue", "stop", "keep-previous"]

WIN_RATE = "eval/win_rate_vs_previous"
INSTRUCTION_DROP = "eval/instructions_drop"
EXPORT_SLOPE, PUBLISH_SLOPE = "train/export_slope", "train/publish_slope"
ENOUGH = 0.9
"""Slope below which a saved model is another one than the trained one."""
EVEN = 0.5
"""Win rate of two models of which neither is better."""


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and one sentence on why."""

    decision: Decision
    reason: str


def decide(config: RunConfig, iteration: int, figures: Mapping[str, float]) -> Verdict:
    """Decide from an iteration's figures (`eval/...`, as tracked).

    One rule against the new model keeps the previous one, whatever speaks for going on or stopping. The sentence names
    every rule that applied, or the win rate where none did.
    """
    against = list(_against(config.evaluate.gate, figures))
    ends = [] if against else list(_ends(config, iteration, figures))
    decision: Decision = "keep-previous" if against else "stop" if ends else "continue"
    goes_on = [f"no rule speaks against it; {_seen(figures)}"] if decision == "continue" else []
    return Verdict(decision, "; ".join([*goes_on, *against, *ends, *_lost(figures)]))


def _against(gate: GateConfig, figures: Mapping[str, float]) -> Iterator[str]:
    """The rules by which the new model is worse than the previous one, or got its wins by other means than merit."""
    if figures[f"{WIN_RATE}_high"] < gate.keep_previous_below:
        yield f"{_seen(figures)}, all below {gate.keep_previous_below}"
    if figures[WIN_RATE] < min(gate.stop_below, EVEN):  # no further model would make good for publishing this one
        yield f"{_seen(figures)}, below {gate.stop_below}, and the new model lost"
    for judge in JUDGES:
        name = f"eval/{judge}_win_rate_vs_previous"
        if figures.get(f"{name}_high", 1.0) < gate.second_judge_below:
            seen = f"by the {judge} judge the win rate over the previous model is {_contest(figures, name)}"
            yield f"{seen}, all below {gate.second_judge_below}"
    # Answers of no tokens at all are no measure of growth.
    growth = figures["eval/mean_length"] / max(figures["eval/mean_length_base"], 1.0)
    if 0 < gate.max_length_growth < growth:
        yield f"the answers are {growth:.2f} times as long as the base model's, above {gate.max_length_growth}"
    # A few dozen prompts fall by much for no reason: what counts must be more than chance too.
    if figures.get(INSTRUCTION_DROP, 0.0) > gate.max_instruction_drop and figures[f"{INSTRUCTION_DROP}_low"] > 0:
        drop = _interval(figures, INSTRUCTION_DROP)
        yield f"the share of instructions followed fell by {drop}, more than {gate.max_instruction_drop}"


def _ends(config: RunConfig, iteration: int, figures: Mapping[str, float]) -> Iterator[str]:
    """The rules by which no further iteration is played."""
    if figures[WIN_RATE] < config.evaluate.gate.stop_below:
        yield f"{_seen(figures)}, below {config.evaluate.gate.stop_below}"
    if iteration >= config.iterations:
        all_of_them = "the only iteration is" if config.iterations == 1 else f"all {config.iterations} iterations are"
        yield f"{all_of_them} played"


def _lost(figures: Mapping[str, float]) -> Iterator[str]:
    """No rule, but what makes all of the others speak of a model that nobody trained."""
    if figures.get(EXPORT_SLOPE, 1.0) < ENOUGH:  # runs of versions before did not measure it
        yield f"the saved model shows {figures[EXPORT_SLOPE]:.2f} of what was trained (export slope below {ENOUGH})"


def _seen(figures: Mapping[str, float]) -> str:
    return f"the win rate over the previous model is {_contest(figures, WIN_RATE)}"


def _contest(figures: Mapping[str, float], name: str) -> str:
    """A win rate with its interval, and how sure the judge is of the same answers."""
    sure = name.replace("win_rate", "mean_probability")
    return _interval(figures, name) + (f" (mean probability {figures[sure]:.3f})" if sure in figures else "")


def _interval(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:.3f} [{figures[f'{name}_low']:.3f}, {figures[f'{name}_high']:.3f}]"
