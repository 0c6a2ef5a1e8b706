"""RSPO (Tang et al., arXiv 2503.00030): SPPO, and both KL divergences to the base mu, with weights f and b.

loss = mean over i of (r_i - eta (P_i - 1/2))^2 + f (r_i^2 / 2 - (exp(-s_i) - 1) r_i) + b (r_i + s_i)^2 / 2

with r = log pi_theta - log pi_t and s = log pi_t - log mu, so that r + s = log pi_theta - log mu. The paper adds the
divergences to SPPO's loss. Here they are taken as SPPO's equation 4.6 takes the game: by a square whose gradient, over
responses y ~ pi_t and where pi_theta is pi_t, is the wanted one, as E[grad log pi_theta] = 0 there:

- b: E[s grad log pi_theta] is the gradient of KL(pi_theta || mu), the reverse divergence;
- f: -E[exp(-s) grad log pi_theta] is that of KL(mu || pi_theta), the forward divergence, exp(-s) = mu / pi_t being the
  weight of a response of pi_t in a mean over mu.

The responses' own divergences would bring exp(r), which leaves the range of numbers long before r reaches its target.
Free of normalisation, the minimum is r (1 + (f + b) / 2) = eta (P - 1/2) + f/2 (exp(-s) - 1) - b/2 s. With f = 0 that
is magnetic mirror descent, pi_{t+1} ~ (pi_t mu^(b/2) exp(eta P))^(1 / (1 + b/2)). It rests at the equilibrium of the
game whose payoff is less by f/(2 eta) KL(mu || pi) + b/(2 eta) KL(pi || mu).
"""

from __future__ import annotations

import torch

from sppo.algorithm.objectives.base import Responses, Settings
from sppo.algorithm.objectives.sppo import sppo_loss

NEEDS_BASE = True


def loss(responses: Responses, settings: Settings) -> torch.Tensor:
    """See `Objective.loss`."""
    ratios, over_base = responses.log_ratios, responses.over_base
    forward = ratios.square() / 2 - torch.expm1(-over_base) * ratios
    reverse = (ratios + over_base).square() / 2
    held = settings.rspo.forward * forward + settings.rspo.reverse * reverse
    return sppo_loss(ratios, responses.probabilities, settings.eta) + held.mean(dim=-1)
