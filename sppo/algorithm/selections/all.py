"""Every response of another text, the most and the least preferred one first."""

from __future__ import annotations

from sppo.algorithm.selections.base import Ranked, Selected, Settings, different
from sppo.algorithm.selections.best_worst import best_and_worst


def select(ranked: Ranked, settings: Settings) -> Selected | None:
    """See `Selection.select`."""
    pair = best_and_worst(ranked.win)
    return Selected(*pair, different(ranked, pair)) if pair else None
