"""What an objective is: the loss of one prompt, by its responses' log-ratios and win probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import NamedTuple, Protocol

import torch

AT_THE_BASE = torch.tensor(0.0)
"""Of `Responses.over_base` where the reference is the base, or nobody asks for the base."""


class Responses(NamedTuple):
    """A prompt's responses: the chosen one, the rejected one, then further ones. Leading dimensions are prompts."""

    log_ratios: torch.Tensor
    """r = log pi_theta(y|x) - log pi_t(y|x), summed over the response's tokens, in nats; shape (..., n)."""
    probabilities: torch.Tensor
    """P(y > pi_t | x), shape (..., n)."""
    over_base: torch.Tensor = AT_THE_BASE
    """s = log pi_t(y|x) - log mu(y|x), mu being the base model that the run began with, pi_1; shape (..., n) or ()."""


class Regularization(Protocol):
    """The section `train.rspo`."""

    @property
    def forward(self) -> float:
        """The weight of KL(mu || pi_theta)."""
        ...

    @property
    def reverse(self) -> float:
        """The weight of KL(pi_theta || mu)."""
        ...


class Settings(Protocol):
    """The section `train`, as far as objectives read it."""

    @property
    def eta(self) -> float:
        """The step size of the multiplicative-weights update; others call 1/eta beta."""
        ...

    @property
    def rspo(self) -> Regularization:
        """How strongly `rspo.py` holds the policy to the base."""
        ...


class Objective(Protocol):
    """A module of this folder; one that reads `Responses.over_base` says `NEEDS_BASE = True`."""

    def loss(self, responses: Responses, settings: Settings) -> torch.Tensor:
        """The loss of each prompt, shape (...); the least possible one where the policy is as the objective wants."""
        ...


def needs_base(objective: Objective) -> bool:
    """Whether an objective reads `Responses.over_base`, which costs a pass of the base over all responses."""
    return bool(getattr(objective, "NEEDS_BASE", False))


def loss_at_start(
    objective: Objective,
    probabilities: Iterable[torch.Tensor],
    settings: Settings,
    over_base: Iterable[torch.Tensor] = repeat(AT_THE_BASE),
) -> float:
    """The mean loss over prompts while the policy still is the reference: all log-ratios are 0.

    Args:
        objective: whose loss.
        probabilities: P of each prompt's responses, shape (n,); n may differ.
        settings: as for the loss.
        over_base: s of each prompt's responses, as `Responses` has it.
    """
    prompts = zip(probabilities, over_base, strict=False)
    losses = [objective.loss(Responses(torch.zeros_like(p), p, s), settings) for p, s in prompts]
    return float(torch.stack(losses).mean())
