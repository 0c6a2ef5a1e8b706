"""The report of a run: one self-contained HTML page, the same as Markdown, a terminal table and the model card."""

from sppo.reporting.report.card import model_card
from sppo.reporting.report.collect import IterationReport, RunReport, Sample, collect
from sppo.reporting.report.figures import SUMMARY_COLUMNS, summary_rows
from sppo.reporting.report.pages import render_html, render_markdown, render_note
from sppo.reporting.report.plots import distribution_svg
from sppo.reporting.report.trust import Check, checks, colour, verdict_lines
from sppo.reporting.report.verdict import headline

__all__ = [
    "SUMMARY_COLUMNS",
    "Check",
    "IterationReport",
    "RunReport",
    "Sample",
    "checks",
    "collect",
    "colour",
    "distribution_svg",
    "headline",
    "model_card",
    "render_html",
    "render_markdown",
    "render_note",
    "summary_rows",
    "verdict_lines",
]
