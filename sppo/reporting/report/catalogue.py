"""Which figures of a run are charted together."""

from __future__ import annotations

from dataclasses import dataclass

from sppo.config.sections.evaluate import JUDGES


@dataclass(frozen=True)
class Chart:
    """What one chart over iterations shows."""

    name: str
    title: str
    unit: str
    series: tuple[tuple[str, str], ...]
    """Pairs of a figure's tracked name and its label."""
    line: float | None = 0.0
    """A level to draw across, such as a draw's 0.5; the axis includes it."""


CHARTS = (
    Chart(
        "win-rate",
        "Win rate on held-out prompts, with 95 % intervals",
        "win rate",
        (
            ("eval/win_rate_vs_base", "over the base"),
            ("eval/win_rate_vs_previous", "over the previous model"),
            ("eval/lc_win_rate_vs_base", "at equal length"),
        ),
        line=0.5,
    ),
    *(
        Chart(
            f"{judge}-judge",
            f"Win rate by the {judge} judge, and how often it differs from the first",
            "share",
            (
                (f"eval/{judge}_win_rate_vs_base", "over the base"),
                (f"eval/{judge}_win_rate_vs_previous", "over the previous model"),
                (f"eval/{judge}_disagreement", "the judges differ"),
            ),
            line=0.5,
        )
        for judge in JUDGES
    ),
    *(
        Chart(
            f"probability-{opponent}",
            f"Mean probability of winning over the {title}, by judge",
            "probability",
            (
                (f"eval/mean_probability_vs_{opponent}", "training judge"),
                *((f"eval/{judge}_mean_probability_vs_{opponent}", f"{judge} judge") for judge in JUDGES),
            ),
            line=0.5,
        )
        for opponent, title in (("base", "base"), ("previous", "previous model"))
    ),
    Chart(
        "length-matched",
        "Win rate over the base among answers of about the same length",
        "win rate",
        (("eval/length_matched_win_rate_vs_base", "over the base"),),
        line=0.5,
    ),
    Chart(
        "sign-test",
        "Sign test over prompts",
        "two-sided p",
        (
            ("eval/sign_test_p_vs_base", "against the base"),
            ("eval/sign_test_p_vs_previous", "against the previous model"),
        ),
        line=0.05,
    ),
    Chart(
        "prompts",
        "Held-out prompts that are tied, or have answers of about the same length",
        "prompts",
        (
            ("eval/ties_vs_base", "tied with the base"),
            ("eval/ties_vs_previous", "tied with the previous model"),
            ("eval/length_matched_win_rate_vs_base_prompts", "of matched length"),
        ),
    ),
    Chart(
        "length",
        "Length of the answers, and the gap in the training pairs",
        "tokens",
        (
            ("eval/mean_length", "new model"),
            ("eval/mean_length_base", "base"),
            ("pairs/length_gap", "chosen less rejected"),
        ),
    ),
    Chart(
        "instructions",
        "Verifiable instructions that the answers follow",
        "share of the instructions",
        (("eval/instructions_instruction_strict", "new model"), ("eval/instructions_instruction_strict_base", "base")),
    ),
    Chart(
        "instruction-prompts",
        "Prompts whose verifiable instructions are all followed",
        "share of the prompts",
        (("eval/instructions_prompt_strict", "new model"), ("eval/instructions_prompt_strict_base", "base")),
    ),
    *(
        Chart(
            f"final-{kinds}",
            f"Verifiable instructions of {kinds} kinds followed at the end",
            "share of the instructions",
            ((f"final/instructions_{kinds}", "best model"), (f"final/instructions_{kinds}_base", "base")),
        )
        for kinds in ("trained", "other")
    ),
    Chart(
        "cut",
        "Answers that are cut",
        "share",
        (("eval/truncated_fraction", "held-out prompts"), ("final/truncated_fraction", "prompts with instructions")),
    ),
    Chart(
        "decisions",
        "Gate and audit",
        "1 is yes",
        (("gate/continue", "the gate says continue"), ("train/reference_recomputed", "reference recomputed")),
    ),
    Chart(
        "loss",
        "Training loss",
        "loss",
        (
            ("train/loss", "mean over the steps"),
            ("train/first_loss", "first step"),
            ("train/loss_at_start", "untrained policy, all pairs"),
        ),
        line=None,
    ),
    Chart(
        "distance",
        "How far the policy moved, and how exact its reference is",
        "nats a response",
        (
            ("train/mean_abs_log_ratio", "|log-ratio|"),
            ("train/kl", "KL from the reference"),
            ("train/reference_audit_response_abs", "reference audit"),
        ),
    ),
    Chart(
        "audit",
        "Reference audit: sampler against trainer",
        "nats a token",
        (("train/reference_audit_mean_abs", "mean"), ("train/reference_audit_max_abs", "largest")),
    ),
    Chart(
        "export",
        "How much of what was trained the saved weights show",
        "slope",
        (("train/export_slope", "as the sampler loads them"), ("train/publish_slope", "in the published type")),
        line=1.0,
    ),
    Chart("gradient", "Gradient norm before clipping", "norm", (("train/grad_norm", "mean over the steps"),)),
    Chart(
        "pairs",
        "Mean win probability of the training pairs",
        "probability",
        (("pairs/mean_p_chosen", "chosen"), ("pairs/mean_p_rejected", "rejected")),
        line=0.5,
    ),
    Chart(
        "pair-length",
        "Length of the training pairs' responses",
        "tokens",
        (("pairs/chosen_length", "chosen"), ("pairs/rejected_length", "rejected")),
    ),
    Chart(
        "responses",
        "The training responses",
        "share",
        (
            ("pairs/kept_fraction", "prompts that gave a pair"),
            ("rank/duplicate_fraction", "duplicates"),
            ("generate/truncated_fraction", "truncated"),
        ),
    ),
    Chart("pair-cut", "Training pairs that were cut to train.max_tokens", "share", (("train/cut_fraction", "cut"),)),
    Chart(
        "judge",
        "The judge on the training responses",
        "share",
        (("rank/saturation", "saturation"), ("rank/intransitive_fraction", "intransitive triads")),
    ),
    Chart(
        "judge-bias",
        "What sways the judge on the training responses",
        "share",
        (("rank/order_agreement", "both orders agree"), ("rank/longer_preferred", "the longer one is preferred")),
        line=0.5,
    ),
    Chart(
        "position-bias",
        "Position bias of the judge",
        "logits",
        (("rank/position_bias", "in favour of the response shown first"),),
    ),
    Chart(
        "comparisons",
        "Comparisons of the training responses",
        "comparisons",
        (("judge/asked", "asked"), ("judge/cached", "known already")),
    ),
    Chart(
        "speed",
        "Speed",
        "a second",
        (
            ("generate/tokens_per_second", "tokens sampled"),
            ("train/tokens_per_second", "tokens trained on"),
            ("rank/comparisons_per_second", "comparisons"),
        ),
    ),
    Chart(
        "time",
        "Time",
        "seconds",
        (("generate/seconds", "sampling"), ("rank/seconds", "judging"), ("train/seconds", "training")),
    ),
)
