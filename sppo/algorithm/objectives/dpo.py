"""DPO (Rafailov et al., arXiv 2305.18290, equation 7), played anew in every iteration: SPPO's first baseline.

loss = -log sigmoid(beta (r_w - r_l)), beta = 1/eta, of the chosen and the rejected response. The reference is pi_t, and
the probabilities only say which response won. Further responses are not looked at.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from sppo.algorithm.objectives.base import Responses, Settings


def loss(responses: Responses, settings: Settings) -> torch.Tensor:
    """See `Objective.loss`."""
    margin = responses.log_ratios[..., 0] - responses.log_ratios[..., 1]
    return -logsigmoid(margin / settings.eta)
