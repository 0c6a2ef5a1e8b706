"""Publish: the best model and the report."""

from typing import NamedTuple

from kfp import dsl

from sppo_components.images import image


@dsl.component(base_image=image("publish"), install_kfp_package=False)
def publish(
    run_config: dsl.Input[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> NamedTuple("Outputs", [("model_uri", str), ("gate", str)]):  # type: ignore[valid-type]
    """Export the best model as a standard Hugging Face folder, with a report, and register it.

    Args:
        run_config: The resolved configuration.
        metrics: The run's figures.
        report: The final report.
        summary: The same as Markdown.

    Returns:
        The URI of the published model, and whether the gate is "passed" or "failed".
    """
    from collections import namedtuple

    from sppo import stages

    published = stages.publish(run_config.path, report.path, summary.path)
    for name, value in published.figures.items():
        metrics.log_metric(name, value)
    gate = "passed" if published.passed else "failed"
    return namedtuple("Outputs", ["model_uri", "gate"])(published.model_uri, gate)  # type: ignore[call-arg]
