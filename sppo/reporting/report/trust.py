"""Can the verdict be trusted? Each figure that could say no, with what it would have to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from sppo.config.run import RunConfig
from sppo.config.sections.evaluate import JUDGES
from sppo.evaluation.gate import ENOUGH, EVEN, EXPORT_SLOPE
from sppo.reporting.report.collect import RunReport
from sppo.reporting.report.figures import share, with_interval
from sppo.reporting.report.verdict import certainty_sentence, decision_sentence, gate_sentence, headline

SURE = 0.55
"""Mean probability below which a judge that prefers an answer is hardly sure of it."""
AGREES = 0.75
"""Share of pairs on which both orders agree, below which places decide more than answers."""
UNDECIDED, SATURATED = 0.02, 0.9
"""Saturation below which a judge has no opinion, and above which it is certain of everything."""
CUT_IN_TRAINING, CUT_IN_EVALUATION = 0.3, 0.1
"""Shares of cut responses above which their ends, and their lengths, are not known."""
LENGTH_EFFECT = 0.05
"""How far the win rate at equal length may lie from the win rate."""
FEW = 64
"""Held-out prompts below which an interval is wide whatever the model does."""

Colour = Literal["passed", "caution", "failed"]


@dataclass(frozen=True)
class Check:
    """One reason to trust a verdict, or not to."""

    trusted: bool
    said: str


def _check(trusted: bool, said: str, mend: str) -> Check:
    """A check, which says what may mend it where it is a caution."""
    return Check(trusted, said if trusted else f"{said}; {mend}")


def colour(report: RunReport) -> Colour:
    """The verdict's colour: that of the gate, but no green where a check is a caution."""
    if not report.passed:
        return "failed"
    return "passed" if all(check.trusted for check in checks(report)) else "caution"


def verdict_lines(report: RunReport) -> list[str]:
    """The verdict for a terminal or a log: the sentences on the run, and each check."""
    said = [
        f"{headline(report)} {certainty_sentence(report)}",
        f"{gate_sentence(report)} {decision_sentence(report.iterations[-1])}",
    ]
    return [*said, *(f"{'pass' if check.trusted else 'caution'}: {check.said}" for check in checks(report))]


def checks(report: RunReport) -> list[Check]:
    """What speaks for and against the verdict, by figures of the best iteration, or of the last one.

    A figure that was not measured gives no check.
    """
    each = report.best or report.iterations[-1]
    figures = {**report.iterations[-1].figures, **each.figures}
    return [
        *_judges(report.config, figures),
        *_instructions(figures),
        *_measurement(report, figures),
        *_length(figures),
    ]


def _judges(config: RunConfig, figures: Mapping[str, float]) -> Iterator[Check]:
    name = "eval/mean_probability_vs_base"
    if name in figures:
        said = f"its judge's mean probability over the base is {share(figures[name])} (at least {SURE})"
        yield _check(figures[name] >= SURE, said, "it hardly tells the two apart: read the answers")
    for judge, uri in zip(JUDGES, config.evaluate.second_judge, strict=False):
        name = f"eval/{judge}_win_rate_vs_base"
        sure = f"eval/{judge}_mean_probability_vs_base"
        if f"{name}_high" in figures:
            role = f"the {judge} judge{', which is a part of the first,' if uri in config.rankers() else ''}"
            said = (
                f"by {role} the win rate is {with_interval(figures, name)}, its mean probability "
                f"{with_interval(figures, sure)} (both above {EVEN})"
            )
            mend = "what one judge likes need not be better: read the answers"
            yield _check(min(figures[name], figures.get(sure, 1.0)) > EVEN, said, mend)
    name = "rank/order_agreement"
    if name in figures:
        said = f"the judge stays with its choice when two answers change places in {share(figures[name])} of pairs"
        yield _check(figures[name] >= AGREES, f"{said} (at least {AGREES})", "take a judge that looks at the answers")
    name = "rank/saturation"
    if name in figures:
        said = f"its saturation is {share(figures[name])} (from {UNDECIDED}, no opinion, to {SATURATED}, always sure)"
        mend = f"{'raise' if figures[name] > SATURATED else 'lower'} rank.temperature"
        yield _check(UNDECIDED <= figures[name] <= SATURATED, said, mend)


def _instructions(figures: Mapping[str, float]) -> Iterator[Check]:
    trained, other, drop = "final/instructions_trained_gain", "final/instructions_other_gain", "eval/instructions_drop"
    if f"{trained}_low" in figures:
        said = f"of instructions of trained kinds it follows {with_interval(figures, trained)} more than the base"
        yield Check(figures[f"{trained}_low"] > 0, f"{said} (interval above 0)")
    if f"{other}_high" in figures:
        kinds = "of other kinds" if trained in figures else "of kinds that it was not trained on"
        said = f"of instructions {kinds} it follows {with_interval(figures, other)} more than the base"
        yield Check(figures[f"{other}_high"] >= 0, f"{said} (interval not below 0)")
    if f"{drop}_low" in figures and not {trained, other} & figures.keys():
        said = f"it follows {with_interval(figures, drop)} fewer instructions than the base"
        yield Check(figures[f"{drop}_low"] <= 0, f"{said} (interval not above 0)")


def _measurement(report: RunReport, figures: Mapping[str, float]) -> Iterator[Check]:
    count = report.config.prepare.held_out
    yield _check(count >= FEW, f"{count} held-out prompts were answered (at least {FEW})", "raise prepare.held_out")
    for name, what, most, tokens in (
        ("generate/truncated_fraction", "training responses", CUT_IN_TRAINING, "generate.max_tokens"),
        ("eval/truncated_fraction", "held-out answers", CUT_IN_EVALUATION, "evaluate.max_tokens"),
    ):
        if name in figures:
            said = f"{share(figures[name])} of the {what} are cut (at most {most})"
            yield _check(figures[name] <= most, said, f"raise {tokens}, unless they only repeat themselves")
    if EXPORT_SLOPE in figures:
        said = f"of what training changed, {share(figures[EXPORT_SLOPE])} is in the saved model (at least {ENOUGH})"
        yield Check(figures[EXPORT_SLOPE] >= ENOUGH, said)


def _length(figures: Mapping[str, float]) -> Iterator[Check]:
    name, controlled = "eval/win_rate_vs_base", "eval/lc_win_rate_vs_base"
    if controlled in figures:
        effect = figures[controlled] - figures[name]
        said = (
            f"of answers of equal length it wins {with_interval(figures, controlled)}, {effect:+.3f} against all "
            f"answers (at most {LENGTH_EFFECT} either way)"
        )
        yield _check(abs(effect) <= LENGTH_EFFECT, said, "set rank.length_corrected=true")
