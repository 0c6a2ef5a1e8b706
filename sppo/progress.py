"""A sign of life from work that has no steps of its own to report."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS = 5.0
"""Between two lines."""


@contextmanager
def heartbeat(what: str) -> Iterator[None]:
    """Say what begins, then every few seconds that it goes on: a pod's log has no bars."""
    start, ended = time.monotonic(), threading.Event()

    def beat() -> None:
        while not ended.wait(SECONDS):
            print(f"{what}: {time.monotonic() - start:.0f} s", flush=True)

    print(what, flush=True)
    with beside(beat, ended):
        yield


@contextmanager
def beside(work: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    """Do something in a thread while the block runs; it is to end soon after the event, which the block's end sets."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
