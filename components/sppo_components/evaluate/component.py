"""Evaluate: win rates on held-out prompts, and the gate."""

from typing import NamedTuple

from kfp import dsl

from sppo_components.images import image


@dsl.component(base_image=image("evaluate"), install_kfp_package=False)
def evaluate(
    run_config: dsl.Input[dsl.Artifact],
    prompt_tables: dsl.Input[dsl.Dataset],
    model_uri: str,
    previous_uri: str,
    iteration: int,
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> NamedTuple("Outputs", [("decision", str), ("policy_uri", str)]):  # type: ignore[valid-type]
    """Compare the new policy with the one before and the base model, and decide whether to go on.

    Args:
        run_config: The resolved configuration.
        prompt_tables: The prompt tables of prepare.
        model_uri: The new policy.
        previous_uri: The policy before.
        iteration: The iteration, from 1.
        metrics: Win rates with their intervals, and lengths.
        report: The report of the run so far.
        summary: The same as Markdown.

    Returns:
        The gate's decision, and the URI of the policy that it keeps, with which a next iteration begins.
    """
    from collections import namedtuple

    from sppo import stages

    found = stages.evaluate(
        run_config.path, iteration, model_uri, previous_uri, prompt_tables.path, report.path, summary.path
    )
    for name, value in found.figures.items():
        metrics.log_metric(name, value)
    return namedtuple("Outputs", ["decision", "policy_uri"])(found.decision, found.policy_uri)  # type: ignore[call-arg]
