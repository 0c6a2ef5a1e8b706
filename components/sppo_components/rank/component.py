"""Rank: the preference model judges the responses."""

from kfp import dsl

from sppo_components.images import image


@dsl.component(base_image=image("rank"), install_kfp_package=False)
def rank(
    run_config: dsl.Input[dsl.Artifact],
    responses: dsl.Input[dsl.Dataset],
    iteration: int,
    shard: int,
    shards: int,
    preferences: dsl.Output[dsl.Dataset],
    pairs: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Judge every pair of responses and pair the most with the least preferred one.

    Args:
        run_config: The resolved configuration.
        responses: A shard's responses.
        iteration: The iteration, from 1.
        shard: This task's shard.
        shards: How many there are.
        preferences: The raw K x K logits and probabilities of each prompt.
        pairs: Training pairs with soft targets.
        metrics: Figures of this shard.
    """
    from sppo import stages

    figures = stages.rank(run_config.path, iteration, shard, shards, responses.path, preferences.path, pairs.path)
    for name, value in figures.items():
        metrics.log_metric(name, value)
