"""How this process keeps memory that it will need again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 64 << 20
"""Bytes of the largest piece that is kept; whatever is larger goes back to the system when it is freed."""


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it is glibc.

    Every optimizer step allocates the same tensors again. By default glibc gives large ones back to the system, which
    then has to clear and map every page anew: a fifth of a step's time on a virtual machine (mallopt(3):
    M_MMAP_THRESHOLD, M_TRIM_THRESHOLD).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library has none, and keeps memory in its own way
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
