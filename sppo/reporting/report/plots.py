"""The report's charts: figures over iterations, the training curves, and what the judge's probabilities look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from sppo.reporting.charts import INK, LINES, SERIES, Series, draw, new_axes, over_iterations
from sppo.reporting.report.catalogue import CHARTS
from sppo.reporting.report.collect import IterationReport, RunReport

_FIRST = (
    "win-rate", "probability-base", "instructions", "length", "cut", "step-log-ratio", "distance", "step-loss",
)  # fmt: skip
"""What belongs beside the verdict, in this order: wins by each judge, what code checks, length, and how far the policy
moved."""
_BESIDE_THE_VERDICT = 6
"""How many of it stand there, of those for which there are figures."""
_OF_ITS_OWN = "color: #1c2128; background: #fff; --series-1: #0b62c1"
"""The page's colours, for a drawing without the page."""


@dataclass(frozen=True)
class Drawing:
    """A chart that is drawn."""

    name: str
    title: str
    svg: Markup


class Drawings(NamedTuple):
    """A report's charts."""

    leading: list[Drawing]
    """Those beside the verdict."""
    others: list[Drawing]
    """Those for who asks why."""


def drawings(report: RunReport) -> Drawings:
    """Every chart for which the run has figures, the same bytes for the same report."""
    distributions = [_distribution(each) for each in report.iterations if each.distribution]
    drawn = {each.name: each for each in (*_over_iterations(report), *_over_steps(report), *distributions)}
    leading = [name for name in _FIRST if name in drawn][:_BESIDE_THE_VERDICT]
    return Drawings([drawn.pop(name) for name in leading], list(drawn.values()))


def distribution_svg(iteration: IterationReport) -> str:
    """An iteration's distribution of P as an SVG file of its own."""
    return str(_distribution(iteration).svg).replace("<svg ", f'<svg style="{_OF_ITS_OWN}" ', 1)


def _over_iterations(report: RunReport) -> Iterator[Drawing]:
    iterations = {each.iteration: each.figures for each in report.iterations}
    present = {name for figures in iterations.values() for name in figures}
    for chart in CHARTS:
        series = [Series(label, name, iterations) for name, label in chart.series if name in present]
        if series:
            svg = over_iterations(chart.name, chart.title, chart.unit, series, chart.line)
            yield Drawing(chart.name, chart.title, svg)


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
        axes = new_axes("training step, all iterations", unit)
        start = 0
        for each in report.iterations:
            steps = range(start + 1, start + 1 + len(each.training_log))
            for index, (column, label) in enumerate(series):
                axes.plot(
                    steps,
                    [row[column] for row in each.training_log],
                    color=SERIES[index],
                    linestyle=LINES[index],
                    marker="." if len(steps) < 50 else "",
                    label=label if start == 0 else None,
                )
            start += len(steps)
            if each is not report.iterations[-1]:
                axes.axvline(start + 0.5, color=INK, alpha=0.35, linewidth=0.8)
        yield Drawing(name, title, draw(axes, name, title, 0.0 if unit == "nats" else None))


def _distribution(iteration: IterationReport) -> Drawing:
    """How sure the judge was: pairs of different responses by their P, each counted one half as P and as 1 - P."""
    from matplotlib.ticker import MultipleLocator

    number, bins = iteration.iteration, len(iteration.distribution)
    axes = new_axes(f"P that one response beats another, iteration {number}", "pairs of responses")
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    axes.set_xlim(0, 1)
    edges = [index / bins for index in range(bins)]
    axes.bar(edges, iteration.distribution, 1 / max(bins, 1), align="edge", color=SERIES[0], edgecolor=INK)
    name, title = f"distribution-{number}", f"The judge's probabilities in iteration {number}"
    return Drawing(name, title, draw(axes, name, title))
