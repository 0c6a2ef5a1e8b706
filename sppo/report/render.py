"""A report as a self-contained HTML page and as Markdown."""

from __future__ import annotations

import yaml
from markupsafe import Markup

from sppo import __version__
from sppo.report.collect import RunReport
from sppo.report.escape import html_environment, markdown_environment
from sppo.report.figures import (
    SUMMARY_COLUMNS,
    figure_rows,
    gate_sentence,
    headline,
    prepare_rows,
    second_judge_sentence,
    share,
    summary_rows,
)

MARKDOWN_SAMPLES = 8
"""Prompts that the Markdown shows; the HTML shows the whole panel."""


def render_html(report: RunReport) -> str:
    """One HTML page without scripts or requests, light or dark as its reader's system is.

    All text of models and prompts is escaped, and a content security policy forbids whatever could still be fetched.
    """
    from sppo.report.plots import drawings

    template = html_environment().get_template("report.html.j2")
    return template.render(drawings=drawings(report), **_content(report))


def render_markdown(report: RunReport) -> str:
    """The same without charts, for viewers of Markdown; answers are clipped."""
    template = markdown_environment().get_template("report.md.j2")
    content = _content(report)
    return template.render({**content, "config": Markup(content["config"]), "samples_shown": MARKDOWN_SAMPLES})


def _content(report: RunReport) -> dict[str, object]:
    return {
        "report": report,
        "latest": report.best or report.iterations[-1],
        "headline": headline(report),
        "gate_sentence": gate_sentence(report),
        "second_judge_sentence": second_judge_sentence(report),
        "summary_columns": SUMMARY_COLUMNS,
        "summary_rows": summary_rows(report),
        "figure_rows": figure_rows(report),
        "prepare_rows": prepare_rows(report),
        "share": share,
        "config": yaml.safe_dump(report.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "version": __version__,
    }
