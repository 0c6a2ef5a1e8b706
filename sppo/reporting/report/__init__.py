"""The report of a run: one self-contained HTML page, the same as Markdown, a terminal table and the model card."""

from sppo.reporting.report.card import model_card
from sppo.reporting.report.collect import IterationReport, RunReport, Sample, collect
from sppo.reporting.report.figures import SUMMARY_COLUMNS, summary_rows
from sppo.reporting.report.pages import render_html, render_markdown
from sppo.reporting.report.plots import distribution_svg

__all__ = [
    "SUMMARY_COLUMNS",
    "IterationReport",
    "RunReport",
    "Sample",
    "collect",
    "distribution_svg",
    "model_card",
    "render_html",
    "render_markdown",
    "summary_rows",
]
