"""The rank component."""

from components.rank.component import rank

__all__ = ["rank"]
