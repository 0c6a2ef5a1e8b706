"""The model card of a published policy: README.md in the Hugging Face folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import yaml
from markupsafe import Markup

from sppo.config.run import RunConfig, preset_values
from sppo.reporting.report.collect import RunReport
from sppo.reporting.report.escape import markdown_environment
from sppo.reporting.report.figures import FIGURES, SUMMARY_COLUMNS, summary_rows
from sppo.reporting.report.licences import UNKNOWN, Part, parts
from sppo.reporting.report.provenance import digest_rows, versions
from sppo.reporting.report.titles import judge_title, model_title
from sppo.reporting.report.trust import checks
from sppo.reporting.report.verdict import (
    certainty_sentence,
    decision_sentence,
    gate_sentence,
    headline,
    second_judge_sentence,
)

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

NOT_RESULTS = ("output_uri", "experiment", "shards", "bench", "prices")
"""Values of the configuration that change no result: the card leaves them out, and with them the author's paths."""


_RESULTS = (
    "eval/win_rate_vs_base",
    "eval/mean_probability_vs_base",
    "eval/lc_win_rate_vs_base",
    "eval/instructions_prompt_strict",
    "eval/instructions_instruction_strict",
)
"""Figures of the published model that its front matter lists."""


def model_card(report: RunReport) -> str:
    """A card with front matter that the Hugging Face hub understands.

    The hub takes names of its own models and data sets only, so that a base model or prompts from elsewhere are named
    in the text (https://huggingface.co/docs/hub/model-cards, "Specifying a base model").

    Args:
        report: the run that trained the model, with the published model as its best.
    """
    from huggingface_hub import ModelCardData

    config, made_of = report.config, parts(report.config)
    base_id = _hub_id(config.base_model)
    sets = [_hub_id(uri) for uri in config.prompt_sets()]
    name = model_title(config.base_model)
    data = ModelCardData(
        base_model=base_id,
        license=_hub_licence(made_of[0].licence),
        datasets=[name for name in sets if name] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["sppo", "preference-optimization"],
        model_name=f"{name}-sppo",
        eval_results=_eval_results(report, sets[0]),  # which has the held-out prompts
    )
    template = markdown_environment().get_template("model_card.md.j2")
    return template.render(
        front_matter=Markup(data.to_yaml()),
        report=report,
        judge=judge_title(config),
        name=name,
        headline=headline(report),
        certainty_sentence=certainty_sentence(report),
        gate_sentence=gate_sentence(report),
        decision_sentence=decision_sentence(report.iterations[-1]),
        second_judge_sentence=second_judge_sentence(report),
        checks=checks(report),
        summary_columns=SUMMARY_COLUMNS,
        summary_rows=summary_rows(report),
        overrides=yaml.safe_dump(
            {**overrides(config), "output_uri": "runs/reproduced"}, sort_keys=False, allow_unicode=True
        ),
        part_rows=[_part_row(part) for part in made_of],
        digest_rows=digest_rows(report),
        versions=versions(),
    )


def _hub_id(uri: str) -> str | None:
    return uri.removeprefix("hf://").partition("@")[0] if uri.startswith("hf://") else None


def _hub_licence(licence: str | None) -> str | None:
    """The licence as the hub spells it, which is one identifier; an expression or a sentence is left to the text."""
    return licence if licence and " " not in licence else None


def _part_row(part: Part) -> tuple[str, ...]:
    return part.name, part.uri, part.revision or "–", part.licence or UNKNOWN


def _eval_results(report: RunReport, prompts_id: str | None) -> list[EvalResult] | None:
    """The published model's figures in the hub's form; None where it is the base model, which no figure is of."""
    from huggingface_hub import EvalResult

    if report.best is None:
        return None
    measured = [name for name in _RESULTS if name in report.best.figures]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=prompts_id or "custom",
            dataset_name="prompts with verifiable instructions" if "instructions" in name else "held-out prompts",
            metric_type=name.removeprefix("eval/"),
            metric_name=FIGURES[name].label,
            metric_value=round(report.best.figures[name], 4),
        )
        for name in measured
    ]


def overrides(config: RunConfig, without: Collection[str] = NOT_RESULTS) -> dict[str, Any]:
    """What a configuration changes in its preset; `resolve` makes from it a run with the same results.

    Args:
        config: of a run.
        without: sections and values that are left out.
    """
    changed = _difference(config.asked(), preset_values(config.preset))
    return {"preset": config.preset, **{name: value for name, value in changed.items() if name not in without}}


def _difference(values: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = _difference(value, before[name])
            if inner:
                changed[name] = inner
        elif value != before[name]:
            changed[name] = value
    return changed
