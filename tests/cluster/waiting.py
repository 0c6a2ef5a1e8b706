"""Waits that end: with what they wait for, or with a sentence."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: str, seconds: float, probe: Callable[[], T | None], every: float = 5.0) -> T:
    """What a probe finds, as soon as it finds something.

    Args:
        what: that is waited for, in words.
        seconds: how long.
        probe: gives None or False as long as it is not there.
        every: seconds between two looks.

    Raises:
        AssertionError: if it does not come.
    """
    end = time.monotonic() + seconds
    while True:
        found = probe()
        if found is not None and found is not False:
            return found
        if time.monotonic() >= end:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(every)
