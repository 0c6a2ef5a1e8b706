"""From the responses of a prompt and their win probabilities to a training pair with soft targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def best_and_worst(win: NDArray[np.float64]) -> tuple[int, int] | None:
    """Indices of the most and the least preferred response (paper, section 5.1); ties go to the first.

    Returns:
        None where all are equally preferred: such a prompt teaches nothing.
    """
    best, worst = int(np.argmax(win)), int(np.argmin(win))
    return None if win[best] == win[worst] else (best, worst)


def build_pair(responses: Sequence[dict[str, Any]], win: NDArray[np.float64]) -> dict[str, Any] | None:
    """A row of `tables.PAIRS` from a prompt's rows of `tables.RESPONSES`, or None where there is no preference."""
    chosen = best_and_worst(win)
    if chosen is None:
        return None
    best, worst = chosen
    row = {name: responses[0][name] for name in ("prompt_id", "prompt", "prompt_ids")}
    for role, index in (("chosen", best), ("rejected", worst)):
        response = responses[index]
        row |= {
            role: response["text"],
            f"{role}_index": index,
            f"p_{role}": float(win[index]),
            f"{role}_ids": response["token_ids"],
            f"{role}_logprobs": response["logprobs"],
        }
    return row
