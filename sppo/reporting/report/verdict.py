"""The verdict on a run in sentences: whether it got better, by how much, how sure that is, what the gate decided."""

from __future__ import annotations

from sppo.config.sections.evaluate import JUDGES
from sppo.evaluation.gate import ENOUGH, EXPORT_SLOPE
from sppo.evaluation.statistics import FEWEST
from sppo.reporting.report.collect import IterationReport, RunReport
from sppo.reporting.report.figures import number, share, with_interval

DECIDED = {"continue": "went on", "stop": "stopped", "keep-previous": "kept the previous model"}
"""The gate's decisions in words."""
EVEN = 0.5
"""The win rate of a model over itself."""


def headline(report: RunReport) -> str:
    """Whether the best model is better than the base, which one it is, and by how much."""
    best = report.best
    if best is None:
        return "No iteration was kept: the base model is still the best."
    rate = with_interval(best.figures, "eval/win_rate_vs_base")
    said = f"{_word(report)} Iteration {best.iteration} gave the best model: its win rate over the base is {rate}"
    if "eval/mean_probability_vs_base" in best.figures:
        said += f", its mean probability of winning {share(best.figures['eval/mean_probability_vs_base'])}"
    said += "."
    last = report.iterations[-1].figures
    measured = [name for name in ("final/instructions_trained", "final/instructions_other") if name in last]
    if measured:
        followed, before = share(last[measured[0]]), share(last[f"{measured[0]}_base"])
        said += f" Of instructions that code checks it follows {followed}, the base {before}."
    slope = best.figures.get(EXPORT_SLOPE, 1.0)  # runs of versions before did not measure it
    if slope < ENOUGH:
        said += f" But the saved model shows only {slope:.2f} of what was trained (export slope below {ENOUGH})."
    return said


def _word(report: RunReport) -> str:
    assert report.best is not None
    rate, low, high = (report.best.figures[f"eval/win_rate_vs_base{end}"] for end in ("", "_low", "_high"))
    if report.telling < FEWEST and not low <= EVEN <= high:
        return f"Not certainly {'better' if low > EVEN else 'worse'} than the base: {_too_few(report)}."
    if low > EVEN:
        return "Better than the base, in the judge's opinion."
    if high < EVEN:
        return "Worse than the base, in the judge's opinion."
    if rate < EVEN:
        return "Not better than the base: the judge preferred the base more often, though the interval includes a draw."
    return "Not certainly better than the base: the interval includes a draw."


def _too_few(report: RunReport) -> str:
    """Why an interval says nothing yet: of so few prompts it may be a point."""
    return f"{report.telling} held-out prompts tell the two apart, and a finding needs {FEWEST}"


def certainty_sentence(report: RunReport) -> str:
    """How sure the headline is, and what else could explain it; of the best model, or of the last one."""
    each = report.best or report.iterations[-1]
    figures, parts = each.figures, []
    if "eval/sign_test_p_vs_base" in figures:
        chance = number(figures["eval/sign_test_p_vs_base"])
        parts.append(f"a sign test over {report.config.prepare.held_out} held-out prompts gives p = {chance}")
    if "eval/lc_win_rate_vs_base" in figures:
        parts.append(f"at equal length the win rate is {with_interval(figures, 'eval/lc_win_rate_vs_base')}")
    growth = figures["eval/mean_length"] / max(figures["eval/mean_length_base"], 1e-9)
    parts.append(f"its answers are {growth:.2f} times as long as the base's")
    if "eval/instructions_instruction_strict" in figures:
        followed = with_interval(figures, "eval/instructions_instruction_strict")
        before = share(figures["eval/instructions_instruction_strict_base"])
        parts.append(f"of the instructions asked after each iteration it follows {followed}, the base {before}")
    return f"Iteration {each.iteration} against the base: {'; '.join(parts)}."


def gate_sentence(report: RunReport) -> str:
    """Whether the gate is passed, and what it asks for, or what it lacks."""
    required = report.config.evaluate.gate.required_vs_base
    asks = f"it asks for a win rate over the base whose 95 % interval lies above {share(required)}"
    if report.passed:
        return f"The gate is passed: {asks if required else 'it asks for no win rate over the base'}."
    if report.best is None:
        asks = "no iteration was kept, so that the base model is published"
    elif report.telling < FEWEST:
        asks += f", and {_too_few(report)}"
    return f"The gate is not passed: {asks}."


def decision_sentence(each: IterationReport) -> str:
    """What the gate decided after an iteration, and why."""
    return f"After iteration {each.iteration} the run {DECIDED[each.decision]}: {each.reason}."


def second_judge_sentence(report: RunReport) -> str:
    """What the other judges say of the best model, or of the last one; empty without any."""
    each = report.best or report.iterations[-1]
    return " ".join(
        f"A {name} judge, {uri}, gives iteration {each.iteration} a win rate over the base of "
        f"{with_interval(each.figures, f'eval/{name}_win_rate_vs_base')} and a mean probability of "
        f"{with_interval(each.figures, f'eval/{name}_mean_probability_vs_base')}; it differs from the first on "
        f"{with_interval(each.figures, f'eval/{name}_disagreement')} of the answer pairs."
        for name, uri in zip(JUDGES, report.config.evaluate.second_judge, strict=False)
        if f"eval/{name}_win_rate_vs_base" in each.figures
    )
