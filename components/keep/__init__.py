"""The keep component."""

from components.keep.component import keep

__all__ = ["keep"]
