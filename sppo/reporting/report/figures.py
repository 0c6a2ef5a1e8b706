"""What each figure of a run means and how it is written; tables and summaries share this list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sppo.config.sections.evaluate import JUDGES
from sppo.reporting.report.collect import IterationReport, RunReport


@dataclass(frozen=True)
class Figure:
    """How people read a figure: its name in words, and a sentence on what it says."""

    label: str
    meaning: str


FIGURES: dict[str, Figure] = {
    "prepare/read": Figure("prompts read", "Rows of the prompts' source."),
    "prepare/empty": Figure("prompts dropped as empty", "Rows without text."),
    "prepare/duplicate": Figure("prompts dropped as duplicates", "Rows that repeat an earlier prompt."),
    "prepare/special": Figure(
        "prompts dropped for special tokens", "Prompts in which a special token of the model is written out."
    ),
    "prepare/too_long": Figure("prompts dropped as too long", "Prompts beyond the token limit."),
    "prepare/kept": Figure("prompts kept", "What the iterations and the held-out part were taken from."),
    "eval/win_rate_vs_base": Figure(
        "win rate over the base", "Share of held-out answer pairs that the judge prefers; 0.5 is a draw."
    ),
    "eval/lc_win_rate_vs_base": Figure(
        "length-controlled win rate over the base",
        "What the win rate over the base would be for answers of equal length.",
    ),
    "eval/length_matched_win_rate_vs_base": Figure(
        "length-matched win rate over the base",
        "The win rate over the base among pairs of answers that are about equally long.",
    ),
    "eval/length_matched_win_rate_vs_base_prompts": Figure(
        "prompts with matched lengths", "Held-out prompts that have such a pair."
    ),
    "eval/sign_test_p_vs_base": Figure(
        "sign test against the base", "How likely equals would win and lose prompts so unevenly; two-sided, exact."
    ),
    "eval/ties_vs_base": Figure("ties with the base", "Held-out prompts on which neither model wins more pairs."),
    "eval/mean_probability_vs_base": Figure(
        "mean probability over the base", "How sure the judge is, on average; moves before the win rate does."
    ),
    "eval/win_rate_vs_previous": Figure("win rate over the previous model", "The same against the iteration's start."),
    "eval/mean_probability_vs_previous": Figure(
        "mean probability over the previous model", "The same, in probability."
    ),
    "eval/sign_test_p_vs_previous": Figure("sign test against the previous model", "As against the base."),
    "eval/ties_vs_previous": Figure("ties with the previous model", "As with the base."),
    **{
        f"eval/{judge}_{name}": Figure(f"{label} {judge} judge", meaning)
        for judge in JUDGES
        for name, label, meaning in (
            (
                "win_rate_vs_base",
                "win rate over the base by the",
                "The same answers before another judge; the verdict says if it is a part of the first.",
            ),
            (
                "win_rate_vs_previous",
                "win rate over the previous model by the",
                "The same against the iteration's start.",
            ),
            (
                "mean_probability_vs_base",
                "mean probability over the base by the",
                "How sure it is, on average.",
            ),
            (
                "mean_probability_vs_previous",
                "mean probability over the previous model by the",
                "The same, in probability.",
            ),
            (
                "disagreement",
                "disagreement with the",
                "Share of answer pairs on which it differs from the first; a tie differs from a win.",
            ),
        )
    },
    "eval/truncated_fraction": Figure("answers cut", "Share of held-out answers as long as evaluate.max_tokens."),
    "eval/mean_length": Figure("answer length", "Mean tokens of a held-out answer."),
    "eval/mean_length_base": Figure("answer length of the base", "Mean tokens of the base model's answers."),
    "eval/instructions_prompt_strict": Figure(
        "prompts followed", "Share of prompts with verifiable instructions whose instructions are all followed."
    ),
    "eval/instructions_prompt_strict_base": Figure("prompts followed by the base", "The same of the base model."),
    "eval/instructions_instruction_strict": Figure(
        "instructions followed", "Share of the verifiable instructions that the greedy answers follow, as code checks."
    ),
    "eval/instructions_instruction_strict_base": Figure(
        "instructions followed by the base", "The same of the base model."
    ),
    "eval/instructions_drop": Figure(
        "fall of instructions followed", "The base model's share less the new model's, on the same prompts."
    ),
    "eval/instructions_prompts": Figure("prompts with instructions", "How many prompts the two shares come from."),
    "eval/instructions_unchecked": Figure(
        "instructions not checked", "Instructions whose checker failed on the answer; they count as not followed."
    ),
    **{
        f"final/instructions_{kinds}{end}": Figure(f"instructions of {kinds} kinds{label}", meaning)
        for kinds in ("trained", "other")
        for end, label, meaning in (
            (
                "",
                " followed at the end",
                "The best model's share, of kinds with or without prompts to train on.",
            ),
            ("_base", " followed by the base", "The same of the base model."),
            ("_gain", ", gain", "The best model's share less the base's, on the same prompts."),
            ("_prompts", ", prompts", "How many prompts these shares come from."),
        )
    },
    "final/truncated_fraction": Figure("answers cut at the end", "Share of the best model's answers to these prompts."),
    "gate/continue": Figure("the gate says continue", "1 if the gate let the run go on."),
    "train/loss": Figure("training loss", "Mean SPPO square loss over the iteration's steps."),
    "train/first_loss": Figure("loss of the first step", "Before any weight moved."),
    "train/loss_at_start": Figure(
        "loss of the untrained policy", "What the loss is while the policy is its reference."
    ),
    "train/mean_abs_log_ratio": Figure("|log-ratio|", "Mean |log of policy over reference|, in nats, at the end."),
    "train/kl": Figure(
        "KL from the reference", "Nats that the policy moved away from the iteration's start, estimated."
    ),
    "train/grad_norm": Figure("gradient norm", "Mean norm before clipping."),
    "train/steps": Figure("optimizer steps", "Steps of the iteration."),
    "train/tokens_per_second": Figure("training speed", "Tokens a second, prompts included."),
    "train/seconds": Figure("training time", "Seconds of the optimizer steps, since the last resume."),
    "train/reference_audit_mean_abs": Figure(
        "reference audit, mean", "Sampler's log-probability of a token against the trainer's, in nats."
    ),
    "train/reference_audit_max_abs": Figure("reference audit, largest", "The largest such difference."),
    "train/reference_audit_response_abs": Figure(
        "reference audit, a response", "Mean |difference| summed over a response, in nats."
    ),
    "train/cut_fraction": Figure("pairs cut", "Share of the pairs that were cut to train.max_tokens."),
    "train/reference_recomputed": Figure(
        "reference recomputed", "1 if the audit failed, or every prompt was cut, and the trainer computed it."
    ),
    "train/export_slope": Figure(
        "export slope", "How much of the trained log-ratios the saved model shows, as the sampler loads it; 1 is all."
    ),
    "train/publish_slope": Figure(
        "publish slope", "The same of a whole model in publish.dtype; below 0.9 the model is published in float32."
    ),
    "pairs/mean_p_chosen": Figure("P of the chosen response", "Mean probability of beating the policy itself."),
    "pairs/mean_p_rejected": Figure("P of the rejected response", "The same for the rejected one."),
    "pairs/kept_fraction": Figure("prompts that gave a pair", "Share of prompts; others show too little preference."),
    "pairs/length_gap": Figure(
        "length gap of the pairs", "Tokens of the chosen response less the rejected one's, mean."
    ),
    "pairs/chosen_length": Figure("length of the chosen response", "Tokens, mean over the pairs."),
    "pairs/rejected_length": Figure("length of the rejected response", "The same for the rejected one."),
    "rank/saturation": Figure(
        "judge's saturation",
        "RMS of P - 1/2, over 1/2: at 1 every verdict is certain; equal responses count as P = 1/2.",
    ),
    "rank/duplicate_fraction": Figure("duplicate responses", "Share of responses that repeat another of their prompt."),
    "rank/intransitive_fraction": Figure(
        "intransitive triads", "Share of response triples, ties aside, that the judge ranks in a circle."
    ),
    "rank/order_agreement": Figure(
        "both orders agree",
        "Share of pairs where the judge does not prefer another one when they change places.",
    ),
    "rank/position_bias": Figure(
        "position bias", "Mean logit in favour of whichever response is shown first; 0 is none."
    ),
    "rank/longer_preferred": Figure(
        "longer response preferred", "Share of pairs of different length where the judge prefers the longer one."
    ),
    "rank/comparisons_per_second": Figure(
        "judging speed", "Comparisons that the preference model was asked, a second; those known already cost nothing."
    ),
    "judge/asked": Figure("comparisons asked", "Comparisons in one order that the preference model computed."),
    "judge/cached": Figure("comparisons known already", "Comparisons that were found on disk instead."),
    "rank/seconds": Figure("judging time", "Seconds in the preference model, summed over the shards."),
    "generate/tokens_per_second": Figure("sampling speed", "Tokens a second."),
    "generate/truncated_fraction": Figure("truncated responses", "Share of responses cut at the token limit."),
    "generate/seconds": Figure("sampling time", "Seconds in the engine, summed over the shards."),
    "publish/best_iteration": Figure("best iteration", "Which iteration's model is published; 0 is the base model."),
    "publish/passed": Figure("the gate is passed", "1 if the published model meets the gate."),
    "publish/win_rate_vs_base": Figure("win rate of the published model", "Over the base; none where it is the base."),
    "publish/mean_probability_vs_base": Figure("mean probability of the published model", "Over the base, as well."),
}
"""Of the run and of its iterations. A figure with a 95 % interval has its ends beside it, as `_low` and `_high`."""

_BARS = "▁▂▃▄▅▆▇█"

SUMMARY_COLUMNS = (
    "iteration",
    "win rate vs base",
    "P vs base",
    "instructions",
    "win rate vs previous",
    "P vs previous",
    "mean length",
    "|log-ratio|",
    "decision",
)


SUMMARY_PLAIN = (
    "eval/win_rate_vs_previous", "eval/mean_probability_vs_previous", "eval/mean_length", "train/mean_abs_log_ratio",
)  # fmt: skip
"""Figures of the summary that stand as they are."""


def number(value: float) -> str:
    """A figure for people: four significant digits, whole numbers from 1,000 on."""
    if value == int(value) and abs(value) < 1e7:
        return f"{value:,.0f}"
    if 1e-3 <= abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def share(value: float) -> str:
    """A win rate or probability: three digits, as MLflow and the logs show it."""
    return f"{value:.3f}"


def with_interval(figures: Mapping[str, float], name: str) -> str:
    """A figure with its 95 % interval where it has one, an en dash where it was not measured."""
    if name not in figures:
        return "–"
    if f"{name}_low" not in figures:
        return number(figures[name])
    return f"{share(figures[name])} [{share(figures[f'{name}_low'])}, {share(figures[f'{name}_high'])}]"


def followed(figures: Mapping[str, float]) -> str:
    """The share of verifiable instructions that the base follows, and the model's; empty where it was not measured."""
    name = "eval/instructions_instruction_strict"
    return " → ".join(share(figures[each]) for each in (f"{name}_base", name) if each in figures)


def figure_rows(report: RunReport) -> list[tuple[str, Figure, list[str]]]:
    """Every figure of a run: its tracked name, what it is, and its value in each iteration.

    Known figures come in the order of `FIGURES`; others follow under their tracked name.
    """
    present = {name for each in report.iterations for name in each.figures}
    ends = {name + end for name in present for end in ("_low", "_high")}
    names = [name for name in FIGURES if name in present]
    names += sorted(present - ends - FIGURES.keys())
    return [(name, _figure(name), [with_interval(each.figures, name) for each in report.iterations]) for name in names]


def prepare_rows(report: RunReport) -> list[tuple[str, str]]:
    """What became of the prompts that were read: each count in words, and the count."""
    return [(_figure(name).label, number(value)) for name, value in report.prepare.items()]


def _figure(name: str) -> Figure:
    return FIGURES.get(name, Figure(name, ""))


def summary_rows(report: RunReport) -> list[tuple[str, ...]]:
    """One row an iteration under `SUMMARY_COLUMNS`, ready to print."""
    return [_summary_row(each) for each in report.iterations]


def _summary_row(each: IterationReport) -> tuple[str, ...]:
    return (
        str(each.iteration),
        with_interval(each.figures, "eval/win_rate_vs_base"),
        with_interval(each.figures, "eval/mean_probability_vs_base"),
        followed(each.figures) or "–",
        *(with_interval(each.figures, name) for name in SUMMARY_PLAIN),
        each.decision,
    )


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve in characters, lowest to highest, its neighbouring points averaged where there are more than `width`."""
    points = [
        fmean(values[i * len(values) // width : (i + 1) * len(values) // width]) if len(values) > width else values[i]
        for i in range(min(width, len(values)))
    ]
    low, span = min(points, default=0.0), max(points, default=0.0) - min(points, default=0.0)
    return "".join(_BARS[round((point - low) / (span or 1.0) * (len(_BARS) - 1))] for point in points)


def curve_rows(report: RunReport) -> list[tuple[str, str, str, str]]:
    """Of each iteration its number, the loss and |log-ratio| over the steps, and the distribution of P, drawn."""
    return [
        (
            str(each.iteration),
            sparkline([row["loss"] for row in each.training_log]),
            sparkline([row["mean_abs_log_ratio"] for row in each.training_log]),
            sparkline(each.distribution),
        )
        for each in report.iterations
    ]
