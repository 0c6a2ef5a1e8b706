"""The error that a stage ended with, kept in the store for who tells how the run ended."""

from __future__ import annotations

import json

from sppo.store.base import Store

LONGEST = 2000
"""Characters of an error that are kept."""


def leave(store: Store, run: str, stage: str, error: str) -> None:
    """Keep the error that a stage ends with.

    Args:
        store: the run's.
        run: the run, as the key of its configuration has it.
        stage: the stage, its iteration and shard, in words.
        error: one line for people.
    """
    store.write(_key(run), json.dumps({"stage": stage, "error": error[:LONGEST]}).encode())


def forget(store: Store, run: str, stage: str | None = None) -> None:
    """An error is no reason any more: the stage succeeded at another try, or the run began anew.

    Args:
        store: the run's.
        run: see `leave`.
        stage: the stage that succeeded; None for all.
    """
    kept, _ = last(store, run)
    if kept and stage in {None, kept}:
        leave(store, run, "", "")


def last(store: Store, run: str) -> tuple[str, str]:
    """The stage that ended with an error last, and the error; both empty if there is none."""
    kept = json.loads(store.read(_key(run)) or b"{}")
    return kept.get("stage", ""), kept.get("error", "")


def _key(run: str) -> str:
    return f"tracking/error-{run}.json"
