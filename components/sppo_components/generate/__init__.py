"""The generate component."""

from sppo_components.generate.component import generate

__all__ = ["generate"]
