"""What every sampling engine takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How to sample: `responses` of at most `max_tokens` tokens a prompt; temperature 0 is greedy."""

    responses: int
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True)
class Response:
    """One response; `logprobs[i]` is the model's own log-probability of `token_ids[i]`, in nats.

    The log-probabilities are those of the model, before temperature and top-p. A response that ended by itself keeps
    its end token, so that its probability is the probability of the whole response.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str


class Engine(Protocol):
    """A loaded model that answers prompts."""

    def sample(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> list[list[Response]]:
        """Answer each prompt (token ids) `sampling.responses` times.

        The result is a function of the prompts, the sampling and the seeds (one a prompt), not of earlier calls.
        """
        ...

    def next_logprobs(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> np.ndarray:
        """How likely each of some tokens comes next.

        Args:
            prompts: N prompts, as token ids.
            tokens: T different token ids, at most 128.

        Returns:
            Float64, shape (N, T): the model's own log-probabilities, in nats.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
        ...
