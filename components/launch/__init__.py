"""The launch component."""

from components.launch.component import launch

__all__ = ["launch"]
