"""Keep: hand a model's URI on, so that the branches of the loop can be joined."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("prepare"), install_kfp_package=False)
def keep(model_uri: str) -> str:
    """Return the URI unchanged: `dsl.OneOf` joins outputs of tasks inside branches only.

    Args:
        model_uri: A model's URI.

    Returns:
        The same URI.
    """
    return model_uri
