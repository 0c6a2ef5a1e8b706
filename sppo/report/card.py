"""The model card of a published policy: README.md in the Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from sppo import __version__
from sppo.config import RunConfig, resolve
from sppo.report.collect import RunReport
from sppo.report.escape import markdown_environment
from sppo.report.figures import SUMMARY_COLUMNS, gate_sentence, headline, second_judge_sentence, summary_rows

NOT_RESULTS = ("output_uri", "experiment", "shards")
"""Values of the configuration that change no result: the card leaves them out, and with them the author's paths."""


def model_card(report: RunReport, license_name: str | None) -> str:
    """A card with front matter that the Hugging Face hub understands.

    Args:
        report: the run that trained the model, with the published model as its best.
        license_name: the base model's licence, or None where it is unknown.
    """
    from huggingface_hub import ModelCardData

    config = report.config
    hub_id = config.base_model.removeprefix("hf://").partition("@")[0]
    data = ModelCardData(
        base_model=hub_id,
        license=license_name,
        datasets=[config.prompts.removeprefix("hf://")] if config.prompts.startswith("hf://") else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["sppo", "preference-optimization"],
    )
    template = markdown_environment().get_template("model_card.md.j2")
    return template.render(
        front_matter=Markup(data.to_yaml()),
        report=report,
        name=hub_id.rstrip("/").rpartition("/")[2].removeprefix("package:"),
        headline=headline(report),
        gate_sentence=gate_sentence(report),
        second_judge_sentence=second_judge_sentence(report),
        summary_columns=SUMMARY_COLUMNS,
        summary_rows=summary_rows(report),
        overrides=Markup(yaml.safe_dump(overrides(config), sort_keys=False, allow_unicode=True)),
        version=__version__,
    )


def overrides(config: RunConfig) -> dict[str, Any]:
    """What a configuration changes in its preset; `resolve` makes from it a run with the same results."""
    preset = resolve({"preset": config.preset}).model_dump(mode="json")
    changed = _difference(config.model_dump(mode="json"), preset)
    return {"preset": config.preset, **{name: value for name, value in changed.items() if name not in NOT_RESULTS}}


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
