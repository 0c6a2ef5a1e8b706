"""Every random choice of a run is a function of its seed and of what is chosen, never of the order of work."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 31-bit seed for one purpose, such as `derive_seed(run_seed, "generate", iteration, prompt_id)`."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
