"""Publish: the best model as a standard Hugging Face folder with a model card, and the report of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sppo.config.run import RunConfig
from sppo.errors import ConfigError
from sppo.models.fetch import fetch_policy
from sppo.reporting.keeping import drop_weights
from sppo.reporting.report import RunReport, collect, model_card, render_html, render_markdown
from sppo.store import keys
from sppo.store.lineage import Lineage
from sppo.store.once import run_once
from sppo.store.opening import open_store

SAMPLES_FILE = "samples.jsonl"


@dataclass(frozen=True)
class Published:
    """What a run hands out at its end."""

    model_uri: str
    report_path: Path
    summary_path: Path
    report: RunReport = field(compare=False)
    """It tells of dropped weights too, which the first of two publications drops."""
    figures: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether the gate is passed."""
        return self.report.passed


def publish(config: RunConfig) -> Published:
    """Export the best model of the iterations played, and the report; where that is done already, nothing is done.

    Then the other models' weights are dropped, if `publish.keep` says so.

    A gate that is not passed is no error here: the model and the report that explains why are wanted either way.

    Args:
        config: the run's resolved configuration.

    Raises:
        ConfigError: if no iteration is evaluated, or the model changed since it was.
    """
    store = open_store(config.output_uri)
    report = collect(config, store)
    figures = _figures(report)
    lineage = Lineage(config, store)
    model, written = lineage.published_key, lineage.report_key
    inputs = {"model": report.best_digest, "evaluations": _evaluations(report)}
    run_once(store, model, {"stage": lineage.publish(), **inputs}, lambda output: _export(report, output))
    run_once(store, written, {"stage": lineage.report(), **inputs}, lambda output: _write_report(report, output))
    drop_weights(config, store)
    folder = store.fetch(written)
    return Published(
        model_uri=f"{store.uri}/{model}",
        report_path=folder / keys.REPORT_FILE,
        summary_path=folder / keys.SUMMARY_FILE,
        report=report,
        figures=figures,
    )


def _figures(report: RunReport) -> dict[str, float]:
    """The run in a few numbers, named apart from the iterations' own; iteration 0 is the base model."""
    best = report.best
    figures = {"publish/best_iteration": float(best.iteration if best else 0), "publish/passed": float(report.passed)}
    if best is not None:
        for end in ("", "_low", "_high"):
            figures[f"publish/win_rate_vs_base{end}"] = best.figures[f"eval/win_rate_vs_base{end}"]
        figures["publish/mean_probability_vs_base"] = best.figures["eval/mean_probability_vs_base"]
    return figures


def _evaluations(report: RunReport) -> str:
    return hashlib.sha256(" ".join(each.digest for each in report.iterations).encode()).hexdigest()


def _export(report: RunReport, output: Path) -> Mapping[str, float]:
    """Save the best model in the type that is wanted, with its tokenizer and card."""
    from sppo.models.adapters import load_merged
    from sppo.models.policy import save_policy

    dtype = report.published_dtype
    policy = fetch_policy(report.best_uri)
    if policy.digest() != report.best_digest:
        raise ConfigError(
            f"{report.best_uri}: changed since it was evaluated; put the evaluated files back, or run anew"
        )
    why = (
        ""
        if dtype == report.config.publish.dtype
        else f", as {report.config.publish.dtype} would lose what was trained"
    )
    print(f"publishing {report.best_uri} as {dtype}{why}", flush=True)
    save_policy(load_merged(policy, dtype), policy.base, output)
    (output / "README.md").write_text(model_card(report), encoding="utf-8")
    return _figures(report)


def _write_report(report: RunReport, output: Path) -> Mapping[str, float]:
    (output / keys.REPORT_FILE).write_text(render_html(report), encoding="utf-8")
    (output / keys.SUMMARY_FILE).write_text(render_markdown(report), encoding="utf-8")
    with (output / SAMPLES_FILE).open("w", encoding="utf-8") as file:
        for each in report.iterations:
            for sample in each.samples:
                file.write(json.dumps({"iteration": each.iteration, **asdict(sample)}, ensure_ascii=False) + "\n")
    return _figures(report)
