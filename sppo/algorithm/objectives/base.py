"""What an objective is: the loss of one prompt, by its responses' log-ratios and win probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch


class Responses(NamedTuple):
    """A prompt's responses: the chosen one, the rejected one, then further ones. Leading dimensions are prompts."""

    log_ratios: torch.Tensor
    """r = log pi_theta(y|x) - log pi_t(y|x), summed over the response's tokens, in nats; shape (..., n)."""
    probabilities: torch.Tensor
    """P(y > pi_t | x), shape (..., n)."""


class Settings(Protocol):
    """The section `train`, as far as objectives read it."""

    @property
    def eta(self) -> float:
        """The step size of the multiplicative-weights update; others call 1/eta beta."""
        ...


class Objective(Protocol):
    """A module of this folder."""

    def loss(self, responses: Responses, settings: Settings) -> torch.Tensor:
        """The loss of each prompt, shape (...); the least possible one where the policy is as the objective wants."""
        ...


def loss_at_start(objective: Objective, probabilities: Iterable[torch.Tensor], settings: Settings) -> float:
    """The mean loss over prompts while the policy still is the reference: all log-ratios are 0.

    Args:
        objective: whose loss.
        probabilities: P of each prompt's responses, shape (n,); n may differ.
        settings: as for the loss.
    """
    losses = [objective.loss(Responses(torch.zeros_like(p), p), settings) for p in probabilities]
    return float(torch.stack(losses).mean())
