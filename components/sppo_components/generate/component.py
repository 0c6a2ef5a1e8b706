"""Generate: the policy answers the prompts."""

from kfp import dsl

from sppo_components.images import image


@dsl.component(base_image=image("generate"), install_kfp_package=False)
def generate(
    run_config: dsl.Input[dsl.Artifact],
    prompt_tables: dsl.Input[dsl.Dataset],
    model_uri: str,
    iteration: int,
    shard: int,
    shards: int,
    responses: dsl.Output[dsl.Dataset],
) -> None:
    """Answer each prompt of a shard K times with the current policy.

    Args:
        run_config: The resolved configuration.
        prompt_tables: The prompt tables of prepare.
        model_uri: The current policy.
        iteration: The iteration, from 1.
        shard: This task's shard.
        shards: How many there are.
        responses: Token ids, log-probabilities and text of every response.
    """
    from sppo import stages

    stages.generate(run_config.path, iteration, shard, shards, model_uri, prompt_tables.path, responses.path)
