"""The launch component."""

from sppo_components.launch.component import launch

__all__ = ["launch"]
