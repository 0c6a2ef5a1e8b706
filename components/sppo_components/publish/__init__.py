"""The publish component."""

from sppo_components.publish.component import publish

__all__ = ["publish"]
