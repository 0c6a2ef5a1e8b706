"""The responses of highest and lowest P(y > pi_t): the pair whose two targets lie furthest apart."""

from __future__ import annotations

from sppo.algorithm.selections.base import Ranked, Selected, Settings, first_and_last


def select(ranked: Ranked, settings: Settings) -> Selected | None:
    """See `Selection.select`."""
    pair = first_and_last(ranked, ranked.win)
    return Selected(*pair, []) if pair else None
