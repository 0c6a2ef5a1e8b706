"""The finish component."""

from sppo_components.finish.component import finish

__all__ = ["finish"]
