"""The report of a run: one self-contained HTML page, the same as Markdown, a terminal table and the model card."""

from sppo.report.card import model_card
from sppo.report.collect import IterationReport, RunReport, Sample, collect
from sppo.report.figures import SUMMARY_COLUMNS, summary_rows
from sppo.report.plots import distribution_svg
from sppo.report.render import render_html, render_markdown

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
