"""A report as a self-contained HTML page and as Markdown."""

from __future__ import annotations

import yaml

from sppo.reporting.report.checked import followed
from sppo.reporting.report.collect import RunReport
from sppo.reporting.report.escape import html_environment, markdown_environment
from sppo.reporting.report.figures import (
    SUMMARY_COLUMNS,
    curve_rows,
    figure_rows,
    prepare_rows,
    share,
    summary_rows,
)
from sppo.reporting.report.heading import changed_values, facts, next_steps, sampled, shown_first
from sppo.reporting.report.provenance import digest_rows, time_columns, time_rows, versions
from sppo.reporting.report.titles import judge_title, model_title
from sppo.reporting.report.trust import checks, colour
from sppo.reporting.report.verdict import (
    certainty_sentence,
    decision_sentence,
    gate_sentence,
    headline,
    second_judge_sentence,
)


def render_html(report: RunReport) -> str:
    """One HTML page without scripts or requests, light or dark as its reader's system is.

    All text of models and prompts is escaped, and a content security policy forbids whatever could still be fetched.
    """
    from sppo.reporting.report.plots import drawings

    template = html_environment().get_template("report.html.j2")
    return template.render(drawings=drawings(report), **_content(report))


def render_markdown(report: RunReport) -> str:
    """The same for viewers of Markdown: curves in characters, and the answers of the best iteration only, clipped."""
    template = markdown_environment().get_template("report.md.j2")
    return template.render(curve_rows=curve_rows(report), **_content(report))


def render_note(report: RunReport) -> str:
    """The verdict alone, and what speaks for and against it, for the head of the run's page in MLflow."""
    return markdown_environment().get_template("note.md.j2").render(**_content(report))


def _content(report: RunReport) -> dict[str, object]:
    return {
        "report": report,
        "title": model_title(report.config.base_model),
        "judge": judge_title(report.config),
        "facts": facts(report),
        "changed": changed_values(report.config),
        "next_steps": next_steps(report),
        "sampled": sampled(report.config.evaluate),
        "shown_first": shown_first,
        "followed": followed,
        "latest": report.best or report.iterations[-1],
        "headline": headline(report),
        "certainty_sentence": certainty_sentence(report),
        "gate_sentence": gate_sentence(report),
        "decision_sentence": decision_sentence,
        "second_judge_sentence": second_judge_sentence(report),
        "colour": colour(report),
        "checks": checks(report),
        "summary_columns": SUMMARY_COLUMNS,
        "summary_rows": summary_rows(report),
        "figure_rows": figure_rows(report),
        "prepare_rows": prepare_rows(report),
        "time_columns": time_columns(report),
        "time_rows": time_rows(report),
        "digest_rows": digest_rows(report),
        "share": share,
        "config": yaml.safe_dump(report.config.asked(), sort_keys=False, allow_unicode=True),
        "versions": versions(),
    }
