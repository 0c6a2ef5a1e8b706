"""Prepare: configuration and prompts, checked before any GPU is asked for."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads the annotation

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("prepare"), install_kfp_package=False)
def prepare(
    base_model: str,
    prompts: str,
    preference_model: str,
    output_uri: str,
    experiment: str,
    iterations: int,
    max_iterations: int,
    shards: int,
    config: dict,
    run_config: dsl.Output[dsl.Artifact],
    prompt_tables: dsl.Output[dsl.Dataset],
    training_nodes: int = 1,
    several_nodes: bool = False,
) -> NamedTuple("Outputs", [("shards", List[int]), ("base_uri", str), ("benchmarks", str)]):  # type: ignore[valid-type]  # noqa: UP006
    """Resolve and validate the configuration; clean the prompts and divide them into disjoint parts.

    Args:
        base_model: The chat model to align.
        prompts: The prompts to play.
        preference_model: The judge.
        output_uri: Where the run writes everything.
        experiment: MLflow experiment.
        iterations: Iterations to play.
        max_iterations: Iterations that this package can play.
        shards: Parallel generate and rank tasks.
        config: Overrides of the configuration; dotted keys are allowed.
        run_config: The resolved configuration.
        prompt_tables: One prompts table an iteration, and the held-out one.
        training_nodes: Pods that train together.
        several_nodes: Whether this package can train on more than one.

    Returns:
        The shards of each iteration, the URI of the model to align, and whether benchmarks are wanted, "yes" or "no".
    """
    from collections import namedtuple

    from sppo import stages, trainjob

    trainjob.check_nodes(int(training_nodes), several_nodes)
    named = {
        "base_model": base_model,
        "prompts": prompts,
        "preference_model": preference_model,
        "output_uri": output_uri,
        "experiment": experiment,
        "iterations": iterations,
        "shards": shards,
    }
    # An empty field of the form means the preset's value.
    values = {**config, **{name: value for name, value in named.items() if value}}
    prepared = stages.prepare(values, max_iterations, run_config.path, prompt_tables.path)
    benchmarks = "yes" if prepared.benchmarks else "no"
    names = ["shards", "base_uri", "benchmarks"]
    return namedtuple("Outputs", names)(prepared.shards, prepared.base_uri, benchmarks)  # type: ignore[call-arg]
