"""The SPPO objective (paper, equation 4.6): regress each log-ratio onto the centred win probability."""

from __future__ import annotations

import torch

from sppo.algorithm.objectives.base import Responses, Settings


def loss(responses: Responses, settings: Settings) -> torch.Tensor:
    """See `Objective.loss` and `sppo_loss`."""
    return sppo_loss(responses.log_ratios, responses.probabilities, settings.eta)


def sppo_loss(log_ratios: torch.Tensor, probabilities: torch.Tensor, eta: float) -> torch.Tensor:
    """The mean squared distance between a prompt's log-ratios and their targets.

    loss = mean over i of (r_i - eta (P_i - 1/2))^2, with r_i = log pi_theta(y_i|x) - log pi_t(y_i|x) summed over the
    response's tokens. The paper's pair has n = 2, the chosen and the rejected response.

    Args:
        log_ratios: r in nats, shape (..., n).
        probabilities: P(y_i > pi_t | x), shape (..., n).
        eta: the step size of the multiplicative-weights update.

    Returns:
        Shape (...).
    """
    return (log_ratios - eta * (probabilities - 0.5)).square().mean(dim=-1)
