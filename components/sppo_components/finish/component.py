"""Finish: tell MLflow how the run ended, whatever became of it."""

from kfp import dsl

from sppo_components.images import image


@dsl.component(base_image=image("prepare"), install_kfp_package=False)
def finish(output_uri: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """End the run's runs in MLflow.

    Kubeflow Pipelines plays this after a success, after a failure, and after somebody ended the run. What it says of
    the end is FAILED after a failure; else it does not tell, and the store is asked.

    Args:
        output_uri: Where the run writes everything.
        status: How Kubeflow Pipelines says that the run ended.
    """
    from sppo import stages

    stages.finish(output_uri, status.state)
