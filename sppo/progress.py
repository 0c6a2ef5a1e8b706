"""A sign of life from work that has no steps of its own to report."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
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
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
