"""From the responses of a prompt and their win probabilities to what is trained on, with soft targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sppo.settings import RankConfig

Wins = NDArray[np.float64]


def best_and_worst(win: Wins) -> tuple[int, int] | None:
    """Indices of the most and the least preferred response (paper, section 5.1); ties go to the first.

    Returns:
        None where all are equally preferred: such a prompt teaches nothing.
    """
    best, worst = int(np.argmax(win)), int(np.argmin(win))
    return None if win[best] == win[worst] else (best, worst)


def length_matched(win: Wins, lengths: Sequence[int], tolerance: float) -> tuple[int, int] | None:
    """Indices of the two responses of like length whose win probabilities differ most; ties go to the first.

    Args:
        win: P(y_i > pi_t | x), shape (K,).
        lengths: tokens of the responses.
        tolerance: the largest difference in tokens, as a share of the longer one's.

    Returns:
        None where no two responses of like length differ.
    """
    size = np.asarray(lengths)
    alike = np.abs(np.subtract.outer(size, size)) <= tolerance * np.maximum.outer(size, size)
    gaps = np.where(alike, np.subtract.outer(win, win), 0.0)
    best, worst = divmod(int(gaps.argmax()), len(win))
    return (best, worst) if gaps[best, worst] > 0 else None


def select(
    win: Wins, texts: Sequence[str], lengths: Sequence[int], config: RankConfig, seed: int
) -> tuple[int, int, list[int]] | None:
    """What a prompt trains on.

    Args:
        win: P(y_i > pi_t | x), shape (K,).
        texts: the responses; of equal ones only the first is taken as a further response.
        lengths: their tokens.
        config: `selection`, `minimum_margin` and `length_tolerance`.
        seed: of the random third response.

    Returns:
        Indices of the chosen and the rejected response and of further ones, or None where the prompt is left out.
    """
    matched = config.selection == "length-matched"
    pair = length_matched(win, lengths, config.length_tolerance) if matched else best_and_worst(win)
    if pair is None or win[pair[0]] - win[pair[1]] < config.minimum_margin:
        return None
    taken = {texts[index] for index in pair}
    others = [i for i, text in enumerate(texts) if text not in taken and text not in texts[:i]]
    if config.selection == "all":
        return *pair, others
    if config.selection == "best-worst-random" and others:
        return *pair, [random.Random(seed).choice(others)]
    return *pair, []


def build_pair(responses: Sequence[dict[str, Any]], win: Wins, config: RankConfig, seed: int) -> dict[str, Any] | None:
    """A row of `tables.PAIRS` from a prompt's rows of `tables.RESPONSES`, or None where it is left out."""
    lengths = [len(response["token_ids"]) for response in responses]
    selected = select(win, [response["text"] for response in responses], lengths, config, seed)
    if selected is None:
        return None
    best, worst, others = selected
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
    return row | {
        "other_indices": others,
        "p_others": [float(win[index]) for index in others],
        "other_ids": [responses[index]["token_ids"] for index in others],
        "other_logprobs": [responses[index]["logprobs"] for index in others],
    }
