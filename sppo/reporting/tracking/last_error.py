"""The error that a stage ended with, kept in the store for who tells how the run ended."""

from __future__ import annotations

import json

from sppo.store.base import Store

KEY = "tracking/error.json"
LONGEST = 2000
"""Characters of an error that are kept."""


def leave(store: Store, stage: str, error: str) -> None:
    """Keep the error that a stage ends with.

    Args:
        store: the run's.
        stage: the stage, its iteration and shard, in words.
        error: one line for people.
    """
    store.write(KEY, json.dumps({"stage": stage, "error": error[:LONGEST]}).encode())


def forget(store: Store, stage: str | None = None) -> None:
    """An error is no reason any more: the stage succeeded at another try, or the run began anew.

    Args:
        store: the run's.
        stage: the stage that succeeded; None for all.
    """
    kept, _ = last(store)
    if kept and stage in {None, kept}:
        leave(store, "", "")


def last(store: Store) -> tuple[str, str]:
    """The stage that ended with an error last, and the error; both empty if there is none."""
    kept = json.loads(store.read(KEY) or b"{}")
    return kept.get("stage", ""), kept.get("error", "")
