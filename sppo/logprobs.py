"""Log-probabilities of responses under a policy, computed at response positions only.

The language-model head is the widest matrix product of a small model and its logits the largest tensor of a large one,
so hidden states are gathered at the positions that predict a response token before the head is applied, and the head
runs over a bounded number of positions at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sppo import attention
from sppo.errors import ConfigError
from sppo.packing import Group, Row, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_POSITIONS = 512
"""Positions whose logits exist at one time."""


class ResponseLogprobs(torch.nn.Module):
    """A policy whose forward pass gives the log-probabilities of a row's response tokens."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where a row must be."""
        return self.model.device

    def of(self, groups: Sequence[Group]) -> list[list[torch.Tensor]]:
        """For each group the log-probabilities of its responses, each of shape (its tokens,)."""
        row = pack(groups, self.device)
        values = iter(self(row).split(row.response_lengths))
        return [[next(values) for _ in group.responses] for group in groups]

    def forward(self, row: Row) -> torch.Tensor:
        """log pi(token | prompt, earlier tokens) of every response token of a row.

        Returns:
            Float32, shape (R,), in nats; gradients flow where they are enabled.
        """
        hidden = self.model.base_model(
            input_ids=row.ids, position_ids=row.positions, use_cache=False, row=row
        ).last_hidden_state[0, row.predicting]
        return torch.cat(
            [
                checkpoint(_head_logprobs, self.model, part, targets, use_reentrant=False)
                for part, targets in zip(hidden.split(HEAD_POSITIONS), row.targets.split(HEAD_POSITIONS), strict=True)
            ]
        )


def _head_logprobs(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = _logits(model, hidden).float()
    return -functional.cross_entropy(logits, targets, reduction="none")


def _logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Hidden states to logits, as `forward` of the causal models of transformers does."""
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def check_model(model: PreTrainedModel) -> None:
    """Make sure that a packed row gives this model's own log-probabilities.

    Raises:
        ConfigError: for an architecture whose head or attention does what is not known here.
    """
    group = Group([1, 2, 3, 4], [[5, 6, 7], [8, 9]])
    ours = torch.cat(ResponseLogprobs(model).of([group, group])[1])
    own = torch.cat([_own_logprobs(model, group.prompt, response) for response in group.responses])
    if not torch.allclose(own, ours, atol=2e-2, rtol=2e-2):
        raise ConfigError(
            f"base_model: {type(model).__name__} computes its logits in a way that sppo/attention.py or "
            "sppo/logprobs.py does not know; choose another architecture"
        )


def _own_logprobs(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    with attention.own(model):
        logits = model(input_ids=torch.tensor([[*prompt, *response]], device=model.device), use_cache=False).logits
    values = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return values.gather(1, torch.tensor(response, device=model.device)[:, None])[:, 0]
