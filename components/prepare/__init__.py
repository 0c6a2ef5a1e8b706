"""The prepare component."""

from components.prepare.component import prepare

__all__ = ["prepare"]
