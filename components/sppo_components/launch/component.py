"""Launch: the training on several nodes."""

from typing import List  # noqa: UP035 - KFP reads the annotation

from kfp import dsl

from sppo_components.images import image


@dsl.component(
    base_image=image("train"),
    install_kfp_package=False,
    # What the training pods get. This task's own pod only waits for them: of all this it needs the environment alone.
    task_config_passthroughs=[
        dsl.TaskConfigField.RESOURCES,
        dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
        dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
        dsl.TaskConfigField.KUBERNETES_AFFINITY,
        dsl.TaskConfigField.KUBERNETES_VOLUMES,
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.ENV, apply_to_task=True),
    ],
)
def launch(
    run_config: dsl.Input[dsl.Artifact],
    prompt_tables: dsl.Input[dsl.Dataset],
    pairs: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    model_uri: str,
    iteration: int,
    nodes: int,
    trainer_image: str,
    queue: str,
    shared_memory: str,
    hours: int,
    task_config: dsl.TaskConfig,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Train the next policy on several nodes, as a TrainJob of Kubeflow Trainer.

    Args:
        run_config: The resolved configuration.
        prompt_tables: The prompt tables of prepare.
        pairs: The pairs of all shards.
        model_uri: The current policy: start and reference of the training.
        iteration: The iteration, from 1.
        nodes: Pods that train together.
        trainer_image: Image of the pods.
        queue: Kueue's local queue; empty for none.
        shared_memory: Size of the pods' /dev/shm; empty leaves the runtime's.
        hours: Longest time of the training.
        task_config: Resources, environment, volumes and placement of the pods, as KFP resolved them for this task.
        metrics: Figures of the iteration.

    Returns:
        The URI of the next policy.
    """
    from sppo import stages

    pods = stages.Pods(
        nodes=int(nodes),
        image=trainer_image,
        queue=queue,
        shared_memory=shared_memory,
        hours=int(hours),
        **vars(task_config),
    )
    trained = stages.launch(
        run_config.path, iteration, model_uri, prompt_tables.path, [shard.path for shard in pairs], pods
    )
    for name, value in trained.figures.items():
        metrics.log_metric(name, value)
    return trained.model_uri
