"""The evaluate component."""

from sppo_components.evaluate.component import evaluate

__all__ = ["evaluate"]
