"""The SPPO objective (paper, equation 4.6): regress each log-ratio onto the centred win probability."""

from __future__ import annotations

import torch


def sppo_loss(
    chosen_log_ratio: torch.Tensor,
    rejected_log_ratio: torch.Tensor,
    p_chosen: torch.Tensor,
    p_rejected: torch.Tensor,
    eta: float,
) -> torch.Tensor:
    """One half of the squared distances between log-ratios and their targets, pair by pair.

    loss = ((r_w - eta (P_w - 1/2))^2 + (r_l - eta (P_l - 1/2))^2) / 2, with r = log pi_theta(y|x) - log pi_t(y|x)
    summed over the response's tokens.

    Args:
        chosen_log_ratio: r_w in nats, shape (pairs,).
        rejected_log_ratio: r_l in nats, shape (pairs,).
        p_chosen: P(y_w > pi_t | x), shape (pairs,).
        p_rejected: P(y_l > pi_t | x), shape (pairs,).
        eta: the step size of the multiplicative-weights update.

    Returns:
        Shape (pairs,).
    """
    chosen = chosen_log_ratio - eta * (p_chosen - 0.5)
    rejected = rejected_log_ratio - eta * (p_rejected - 0.5)
    return (chosen.square() + rejected.square()) / 2


def loss_at_start(p_chosen: torch.Tensor, p_rejected: torch.Tensor, eta: float) -> float:
    """The mean loss while the policy still is the reference, in closed form: all log-ratios are 0."""
    zero = torch.zeros_like(p_chosen)
    return float(sppo_loss(zero, zero, p_chosen, p_rejected, eta).mean())
