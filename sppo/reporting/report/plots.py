"""The report's charts: matplotlib figures as inline SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from sppo.reporting.report.collect import IterationReport, RunReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib knows no CSS variables: it draws in these stand-ins, which the SVG then replaces.
_INK = "#010101"
_SERIES = ("#020202", "#030303", "#040404")
_CSS = {_INK: "currentColor", **{color: f"var(--series-{i})" for i, color in enumerate(_SERIES, start=1)}}
_MARKERS, _LINES = ("o", "s", "^"), ("-", "--", ":")
_SIZE = (5.6, 3.0)  # inches
_LEADING = ("win-rate", "second-judge", "length", "judge", "judge-bias", "step-loss", "step-log-ratio")
_OF_ITS_OWN = "color: #1c2128; background: #fff; --series-1: #0b62c1"
"""The page's colours, for a drawing without the page."""


@dataclass(frozen=True)
class Chart:
    """What one chart over iterations shows."""

    name: str
    title: str
    unit: str
    series: tuple[tuple[str, str], ...]
    """Pairs of a figure's tracked name and its label."""
    line: float | None = None
    """A level to draw across, such as a draw's 0.5; the axis includes it."""


@dataclass(frozen=True)
class Drawing:
    """A chart that is drawn."""

    title: str
    svg: Markup
    leading: bool
    """Whether it belongs beside the verdict; the others are for who asks why."""


CHARTS = (
    Chart(
        "win-rate",
        "Win rate on held-out prompts, with 95 % intervals",
        "win rate",
        (
            ("eval/win_rate_vs_base", "over the base"),
            ("eval/win_rate_vs_previous", "over the previous model"),
            ("eval/lc_win_rate_vs_base", "over the base, length-controlled"),
        ),
        line=0.5,
    ),
    Chart(
        "second-judge",
        "Win rate by the second judge, and how often it differs from the first",
        "share",
        (
            ("eval/second_win_rate_vs_base", "over the base"),
            ("eval/second_win_rate_vs_previous", "over the previous model"),
            ("eval/judge_disagreement", "the judges differ"),
        ),
        line=0.5,
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
        line=0.0,
    ),
    Chart(
        "probability",
        "Mean probability of winning on held-out prompts",
        "probability",
        (
            ("eval/mean_probability_vs_base", "over the base"),
            ("eval/mean_probability_vs_previous", "over the previous model"),
        ),
        line=0.5,
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
        line=0.0,
    ),
    Chart(
        "instructions",
        "Verifiable instructions that the answers follow",
        "share of the instructions",
        (
            ("eval/instructions_instruction_strict", "new model"),
            ("eval/instructions_instruction_strict_base", "base"),
        ),
        line=0.0,
    ),
    Chart(
        "instruction-prompts",
        "Prompts whose verifiable instructions are all followed",
        "share of the prompts",
        (("eval/instructions_prompt_strict", "new model"), ("eval/instructions_prompt_strict_base", "base")),
        line=0.0,
    ),
    Chart(
        "decisions",
        "Gate and audit",
        "1 is yes",
        (("gate/continue", "the gate says continue"), ("train/reference_recomputed", "reference recomputed")),
        line=0.0,
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
        line=0.0,
    ),
    Chart(
        "audit",
        "Reference audit: sampler against trainer",
        "nats a token",
        (("train/reference_audit_mean_abs", "mean"), ("train/reference_audit_max_abs", "largest")),
        line=0.0,
    ),
    Chart("gradient", "Gradient norm before clipping", "norm", (("train/grad_norm", "mean over the steps"),), line=0.0),
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
        line=0.0,
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
        line=0.0,
    ),
    Chart(
        "judge",
        "The judge on the training responses",
        "share",
        (("rank/saturation", "saturation"), ("rank/intransitive_fraction", "intransitive triads")),
        line=0.0,
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
        line=0.0,
    ),
    Chart(
        "comparisons",
        "Comparisons of the training responses",
        "comparisons",
        (("judge/asked", "asked"), ("judge/cached", "known already")),
        line=0.0,
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
        line=0.0,
    ),
    Chart(
        "time",
        "Time",
        "seconds",
        (("generate/seconds", "sampling"), ("rank/seconds", "judging"), ("train/seconds", "training")),
        line=0.0,
    ),
)


def drawings(report: RunReport) -> list[Drawing]:
    """Every chart for which the run has figures, the same bytes for the same report."""
    distributions = [_distribution(each) for each in report.iterations if each.distribution]
    return [*_over_iterations(report), *_over_steps(report), *distributions]


def distribution_svg(iteration: IterationReport) -> str:
    """An iteration's distribution of P as an SVG file of its own."""
    return str(_distribution(iteration).svg).replace("<svg ", f'<svg style="{_OF_ITS_OWN}" ', 1)


def _over_iterations(report: RunReport) -> Iterator[Drawing]:
    present = {name for each in report.iterations for name in each.figures}
    for chart in CHARTS:
        series = [(name, label) for name, label in chart.series if name in present]
        if not series:
            continue
        figure, axes = _axes("iteration", chart.unit)
        for index, (name, label) in enumerate(series):
            _plot_series(axes, report, index, len(series), name, label)
        last = report.iterations[-1].iteration
        axes.set_xlim(0.5, last + 0.5)
        yield _finish(figure, axes, chart.name, chart.title, chart.line)


def _plot_series(axes: Axes, report: RunReport, index: int, count: int, name: str, label: str) -> None:
    """One figure over the iterations, a little beside the others so that intervals stay apart."""
    rows = [each for each in report.iterations if name in each.figures]
    x = [each.iteration + 0.06 * (index - (count - 1) / 2) for each in rows]
    y = [each.figures[name] for each in rows]
    interval = None
    if all(f"{name}_low" in each.figures for each in rows):
        low = [value - each.figures[f"{name}_low"] for value, each in zip(y, rows, strict=True)]
        high = [each.figures[f"{name}_high"] - value for value, each in zip(y, rows, strict=True)]
        interval = [low, high]
    axes.errorbar(
        x, y, interval, color=_SERIES[index], marker=_MARKERS[index], linestyle=_LINES[index], label=label, capsize=3
    )


def _over_steps(report: RunReport) -> Iterator[Drawing]:
    """The training curves, the iterations one after the other."""
    curves: Sequence[tuple[str, str, str, tuple[tuple[str, str], ...]]] = (
        ("step-loss", "Loss of each training step", "loss", (("loss", "batch mean"),)),
        (
            "step-log-ratio",
            "Log-ratio of policy over reference at each training step",
            "nats",
            (
                ("chosen_log_ratio", "chosen responses"),
                ("rejected_log_ratio", "rejected responses"),
                ("mean_abs_log_ratio", "|log-ratio|, mean"),
            ),
        ),
    )
    for name, title, unit, series in curves:
        figure, axes = _axes("training step, all iterations", unit)
        start = 0
        for each in report.iterations:
            steps = range(start + 1, start + 1 + len(each.training_log))
            for index, (column, label) in enumerate(series):
                axes.plot(
                    steps,
                    [row[column] for row in each.training_log],
                    color=_SERIES[index],
                    linestyle=_LINES[index],
                    marker="." if len(steps) < 50 else "",
                    label=label if start == 0 else None,
                )
            start += len(steps)
            if each is not report.iterations[-1]:
                axes.axvline(start + 0.5, color=_INK, alpha=0.35, linewidth=0.8)
        yield _finish(figure, axes, name, title, 0.0 if unit == "nats" else None)


def _distribution(iteration: IterationReport) -> Drawing:
    """How sure the judge was: pairs of different responses by their P, each counted one half as P and as 1 - P."""
    from matplotlib.ticker import MultipleLocator

    number, bins = iteration.iteration, len(iteration.distribution)
    figure, axes = _axes(f"P that one response beats another, iteration {number}", "pairs of responses")
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    axes.set_xlim(0, 1)
    edges = [index / bins for index in range(bins)]
    axes.bar(edges, iteration.distribution, 1 / max(bins, 1), align="edge", color=_SERIES[0], edgecolor=_INK)
    title = f"The judge's probabilities in iteration {number}"
    return _finish(figure, axes, f"distribution-{number}", title, None)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_INK)
    axes.grid(axis="y", color=_INK, alpha=0.15)
    return figure, axes


def _finish(figure: Figure, axes: Axes, name: str, title: str, line: float | None) -> Drawing:
    if line is not None:
        axes.axhline(line, color=_INK, alpha=0.5, linewidth=0.8)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        figure.legend(frameon=False, labelcolor=_INK, loc="outside upper center", ncols=2, fontsize=9)
    return Drawing(title, _svg(figure, name, title), name in _LEADING)


def _svg(figure: Figure, name: str, title: str) -> Markup:
    """The figure as an `<svg>` element to put into a page: no XML prolog, no metadata, no ids but its own."""
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": ["sans-serif"]}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for color, css in _CSS.items():
        svg = svg.replace(color, css)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))
