"""The keep component."""

from sppo_components.keep.component import keep

__all__ = ["keep"]
