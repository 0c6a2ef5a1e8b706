"""The rank component."""

from sppo_components.rank.component import rank

__all__ = ["rank"]
