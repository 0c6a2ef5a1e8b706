"""Charts: matplotlib figures as inline SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib knows no CSS variables: it draws in these stand-ins, which the SVG then replaces.
INK = "#010101"
SERIES = ("#020202", "#030303", "#040404")
_CSS = {INK: "currentColor", **{color: f"var(--series-{i})" for i, color in enumerate(SERIES, start=1)}}
LINES = ("-", "--", ":")
_MARKERS = ("o", "s", "^")
_SIZE = (4.2, 2.7)
"""Inches: small enough for letters to stay legible where a phone shows the whole, and for three beside each other."""


@dataclass(frozen=True)
class Series:
    """One line of a chart over iterations."""

    label: str
    figure: str
    """The figure's tracked name; with `_low` and `_high`, those of its interval."""
    iterations: Mapping[int, Mapping[str, float]]
    """Figures of every iteration; it may be without this one."""


def over_iterations(name: str, title: str, unit: str, series: Sequence[Series], line: float | None) -> Markup:
    """A chart of figures over the iterations, with intervals where they are known.

    Args:
        name: for its ids, of which a page has each once.
        title: what it shows.
        unit: of the figures.
        series: the lines, three at most.
        line: a level to draw across, if any; the axis includes it.
    """
    axes = new_axes("iteration", unit)
    for index, each in enumerate(series):
        known = {t: figures for t, figures in each.iterations.items() if each.figure in figures}
        # A little beside the others, so that intervals stay apart.
        x = [t + 0.06 * (index - (len(series) - 1) / 2) for t in known]
        y = [figures[each.figure] for figures in known.values()]
        interval = None
        if all(f"{each.figure}_low" in figures for figures in known.values()):
            low = [value - figures[f"{each.figure}_low"] for value, figures in zip(y, known.values(), strict=True)]
            high = [figures[f"{each.figure}_high"] - value for value, figures in zip(y, known.values(), strict=True)]
            interval = [low, high]
        color, marker, dashes = SERIES[index], _MARKERS[index], LINES[index]
        axes.errorbar(x, y, interval, color=color, marker=marker, linestyle=dashes, label=each.label, capsize=3)
    axes.set_xlim(0.5, max(t for each in series for t in each.iterations) + 0.5)
    return draw(axes, name, title, line)


def new_axes(x: str, y: str) -> Axes:
    """Empty axes with their labels, in a figure of their own; along x are whole numbers."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    axes = Figure(figsize=_SIZE, layout="constrained").add_subplot()
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.15)
    return axes


def draw(axes: Axes, name: str, title: str, line: float | None = None) -> Markup:
    """What was plotted as an `<svg>` element to put into a page: no XML prolog, no metadata, no ids but its own.

    The colours are the page's: `currentColor`, and `--series-1` to `--series-3`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = axes.figure
    assert isinstance(figure, Figure), "the axes of new_axes"
    if line is not None:
        axes.axhline(line, color=INK, alpha=0.5, linewidth=0.8)
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1:
        figure.legend(
            frameon=False, labelcolor=INK, loc="outside upper center", ncols=2, columnspacing=1.0, fontsize=9.5
        )
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": ["sans-serif"]}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = re.sub(r'<g id="[^"]*">', "<g>", buffer.getvalue())
    for color, css in _CSS.items():
        svg = svg.replace(color, css)
    attributes, _, content = svg[svg.index("<svg ") + len("<svg ") :].partition(">")
    described = f"{axes.get_ylabel()} by {axes.get_xlabel()}: {'; '.join(labels)}".removesuffix(": ")
    return Markup('<svg role="img" {}><title>{}</title><desc>{}</desc>{}').format(
        Markup(attributes), title, described, Markup(content)
    )
