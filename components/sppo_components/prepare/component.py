"""Prepare: configuration and prompts, checked before any GPU is asked for."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads the annotations

from kfp import dsl

from sppo_components.images import image


@dsl.component(base_image=image("prepare"), install_kfp_package=False)
def prepare(
    output_uri: str,
    preset: str,
    base_model: str,
    prompts: str,
    preference_model: str,
    experiment: str,
    iterations: int,
    shards: int,
    config: dict,
    generation_gpus: str,
    ranking_gpus: str,
    training_gpus: str,
    training_nodes: int,
    max_iterations: int,
    several_nodes: bool,
    shard_iterations: int,
    run_config: dsl.Output[dsl.Artifact],
    prompt_tables: dsl.Output[dsl.Dataset],
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [("shards", List[int]), ("shard_count", int), ("base_uri", str), ("benchmarks", str)],  # noqa: UP006
):
    """Resolve and validate the configuration; clean the prompts and divide them into disjoint parts.

    Args:
        output_uri: Where the run writes everything.
        preset: The values that the rest starts from.
        base_model: The chat model to align.
        prompts: The prompts to play.
        preference_model: The judge.
        experiment: MLflow experiment.
        iterations: Iterations to play.
        shards: Parallel generate and rank tasks.
        config: Overrides of the configuration; dotted keys are allowed.
        generation_gpus: GPUs of each pod that generates or evaluates, as a string.
        ranking_gpus: GPUs of each pod that ranks, as a string.
        training_gpus: GPUs of each pod that trains, as a string.
        training_nodes: Pods that train together.
        max_iterations: Iterations that this package can play.
        several_nodes: Whether this package can train on more than one node.
        shard_iterations: Shards times iterations that fit into a workflow; 0 for no limit.
        run_config: The resolved configuration.
        prompt_tables: One prompts table an iteration, and the held-out one.

    Returns:
        The shards of each iteration and their number, the URI of the model to align, and whether benchmarks are
        wanted, "yes" or "no".
    """
    from collections import namedtuple

    from sppo import stages

    fields = {
        "output_uri": output_uri,
        "preset": preset,
        "base_model": base_model,
        "prompts": prompts,
        "preference_model": preference_model,
        "experiment": experiment,
        "iterations": iterations,
        "shards": shards,
    }
    gpus = {"generation_gpus": generation_gpus, "ranking_gpus": ranking_gpus, "training_gpus": training_gpus}
    limits = stages.Limits(int(max_iterations), several_nodes, int(shard_iterations) or None)
    form = stages.Form(fields, config)
    prepared = stages.prepare(form, gpus, int(training_nodes), limits, run_config.path, prompt_tables.path)
    benchmarks = "yes" if prepared.benchmarks else "no"
    names = ["shards", "shard_count", "base_uri", "benchmarks"]
    outputs = (prepared.shards, len(prepared.shards), prepared.base_uri, benchmarks)
    return namedtuple("Outputs", names)(*outputs)  # type: ignore[call-arg]
