"""A comparison as a self-contained HTML page, as Markdown, and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sppo import __version__
from sppo.reporting.charts import Series, over_iterations
from sppo.reporting.compare.comparison import Comparison
from sppo.reporting.compare.side import EVEN, Side
from sppo.reporting.compare.words import (
    BEST_COLUMNS,
    ROW_COLUMNS,
    WIN_RATE,
    best_rows,
    change_rows,
    headline,
    iteration_rows,
    panel,
    sentences,
)
from sppo.reporting.report.escape import html_environment, markdown_environment
from sppo.reporting.report.figures import share

HTML_PROMPTS, MARKDOWN_PROMPTS = 8, 4
"""Held-out prompts that are shown with both runs' answers."""
CHART_TITLE = "Win rate over the base on held-out prompts, with 95 % intervals"


def render_html(comparison: Comparison) -> str:
    """One HTML page without scripts or requests, light or dark as its reader's system is; all text is escaped."""
    chart = win_rate_chart((comparison.a, comparison.b), CHART_TITLE)
    template = html_environment().get_template("compare.html.j2")
    return template.render(chart=chart, chart_title=CHART_TITLE, **_content(comparison, HTML_PROMPTS))


def win_rate_chart(sides: Sequence[Side], title: str) -> Markup:
    """The runs' win rates over the base with their 95 % intervals, over the iterations, as inline SVG."""
    series = [Series(s.name, WIN_RATE, {each.iteration: each.figures for each in s.report.iterations}) for s in sides]
    return over_iterations("win-rate", title, "win rate", series, EVEN)


def render_markdown(comparison: Comparison) -> str:
    """The same without the chart; answers are clipped."""
    return markdown_environment().get_template("compare.md.j2").render(_content(comparison, MARKDOWN_PROMPTS))


def print_comparison(comparison: Comparison) -> None:
    """Print a comparison as tables; answers are left to the page."""
    # On a narrow terminal whole lines wrap, which is better than figures that are cut.
    console = Console(width=max(Console().width, 115))
    console.print(Text(headline(comparison), style="bold"))
    for sentence in sentences(comparison):
        console.print(Text(sentence))
    _print_table(console, BEST_COLUMNS, best_rows(comparison))
    for kind, differing in change_rows(comparison.changes):
        _print_table(console, (kind, "A", "B"), differing)
    rows = iteration_rows(comparison)
    _print_table(console, ROW_COLUMNS, [(str(r.iteration), r.label, r.a, r.b, r.difference) for r in rows])


def _print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns, box=SIMPLE)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _content(comparison: Comparison, prompts: int) -> dict[str, object]:
    return {
        "headline": headline(comparison),
        "sentences": list(sentences(comparison)),
        "direction": comparison.direction,
        "best_columns": BEST_COLUMNS,
        "best_rows": best_rows(comparison),
        "changes": change_rows(comparison.changes),
        "row_columns": ROW_COLUMNS,
        "rows": iteration_rows(comparison),
        "panel": panel(comparison, prompts),
        "a": comparison.a,
        "b": comparison.b,
        "share": share,
        "version": __version__,
    }
