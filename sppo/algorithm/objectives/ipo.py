"""IPO (Azar et al., arXiv 2310.12036, equation 17), played anew in every iteration: SPPO's second baseline.

loss = ((r_w - r_l) - eta/2)^2, of the chosen and the rejected response; the paper calls 1/eta tau. The reference is
pi_t, and the probabilities only say which response won. Further responses are not looked at.
"""

from __future__ import annotations

import torch

from sppo.algorithm.objectives.base import Responses, Settings


def loss(responses: Responses, settings: Settings) -> torch.Tensor:
    """See `Objective.loss`."""
    margin = responses.log_ratios[..., 0] - responses.log_ratios[..., 1]
    return (margin - settings.eta / 2).square()
