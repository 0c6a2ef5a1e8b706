"""An orderly end: what is told to stop by SIGTERM or SIGINT finishes its step first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ECHO = 1.0
"""Seconds in which another signal is the same one: Ctrl-C reaches a process from its terminal and from its parent."""


@contextmanager
def finishing_steps() -> Iterator[Callable[[], int]]:
    """Take note of a signal instead of ending at once; a second one has the effect that it had before.

    Outside of a process's main thread nothing is changed, as Python delivers signals to that alone.

    Yields:
        Asks which signal came; 0 if none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    came: tuple[int, float] = (0, 0.0)

    def note(number: int, _: Any) -> None:
        nonlocal came
        if not came[0]:
            came = (number, time.monotonic())
        elif time.monotonic() - came[1] > ECHO:
            signal.signal(number, before[signal.Signals(number)])
            os.kill(os.getpid(), number)

    before = {number: signal.signal(number, note) or signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
