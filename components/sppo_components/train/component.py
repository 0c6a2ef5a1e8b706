"""Train: the SPPO square loss."""

from typing import List  # noqa: UP035 - KFP reads the annotation

from kfp import dsl

from sppo_components.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def train(
    run_config: dsl.Input[dsl.Artifact],
    prompt_tables: dsl.Input[dsl.Dataset],
    pairs: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    model_uri: str,
    iteration: int,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Train the next policy from the current one.

    Args:
        run_config: The resolved configuration.
        prompt_tables: The prompt tables of prepare.
        pairs: The pairs of all shards.
        model_uri: The current policy: start and reference of the training.
        iteration: The iteration, from 1.
        metrics: Figures of the iteration.

    Returns:
        The URI of the next policy.
    """
    from sppo import stages

    trained = stages.train(run_config.path, iteration, model_uri, prompt_tables.path, [shard.path for shard in pairs])
    for name, value in trained.figures.items():
        metrics.log_metric(name, value)
    return trained.model_uri
