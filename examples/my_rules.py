"""A judge in Python: what an answer is worth, in logits. examples/rules.yaml names it."""

import re


def score(prompt: str, response: str) -> float:
    """4 for an answer of two or three sentences, less for each one that is missing or too many.

    Args:
        prompt: the user's message.
        response: the answer.

    Returns:
        A score: a response that has 4 more than another is preferred with P = 0.98.
    """
    sentences = [part for part in re.split(r"[.!?]+(?:\s|$)", response) if part.strip()]
    away = max(2 - len(sentences), len(sentences) - 3, 0)
    return 4.0 - min(away, 4)
