"""The prepare component."""

from sppo_components.prepare.component import prepare

__all__ = ["prepare"]
