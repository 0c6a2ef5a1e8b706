"""Keep: end a branch of the pipeline, showing the model that the run goes on or ends with."""

from kfp import dsl

from sppo_components.images import image


@dsl.component(base_image=image("prepare"), install_kfp_package=False)
def keep(model_uri: str) -> str:
    """Return the URI unchanged.

    Args:
        model_uri: A model's URI.

    Returns:
        The same URI.
    """
    return model_uri
