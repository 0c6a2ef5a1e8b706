"""Where the model folders of a run lie now: what a run recorded names the place that a folder had at its start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_MOVED: ContextVar[Mapping[str, str]] = ContextVar("moved", default={})  # noqa: B039 - nothing writes into it


@contextmanager
def moved(places: Mapping[str, str]) -> Iterator[None]:
    """Look for folders at their new places, as long as this context lasts.

    A recorded place is a part of what a run's results depend on, and stands in verdicts and in the `base_model.json` of
    adapters: all of them stay as they are, and only here is the folder looked for elsewhere.

    Args:
        places: the new place of a folder by its recorded one.
    """
    token = _MOVED.set(places)
    try:
        yield
    finally:
        _MOVED.reset(token)


def present(path: Path) -> Path:
    """Where the folder of a recorded place lies now."""
    return Path(_MOVED.get().get(str(path), path))
