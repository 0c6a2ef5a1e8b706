"""How long to wait before a request is sent again that the network or the server failed."""

from __future__ import annotations

import random

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds between tries: up to the first, doubling up to the longest; each is drawn at random below its limit."""
LONGEST_RETRY_AFTER = 120.0
"""Seconds that a server's Retry-After is followed for."""


def seconds_to_wait(failed: int, retry_after: str) -> float:
    """Seconds until the next try, after `failed` of them.

    Of the forms of Retry-After (RFC 9110, section 10.2.3) seconds are followed; a date, as an empty text, is not.
    """
    if retry_after.isdigit():
        return min(float(retry_after), LONGEST_RETRY_AFTER)
    return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failed - 1, 99)))  # more would not be a float
