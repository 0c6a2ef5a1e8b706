"""Log-probabilities of responses under a policy, computed at response positions only.

The language-model head is the widest matrix product of a small model and its logits the largest tensor of a large one,
so hidden states are gathered at the positions that predict a response token before the head is applied, and the head
runs over a bounded number of positions at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from sppo.errors import ConfigError
from sppo.models.network import attention
from sppo.models.network.packing import Group, Row, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_POSITIONS = 128
"""Positions whose logits exist at one time on a CPU, whose caches they then stay near."""
HEAD_POSITIONS_GPU = 2048
"""The same on a GPU, which reads the head's weights for each part anew."""


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
            input_ids=row.ids,
            position_ids=row.positions,
            use_cache=False,
            **attention.told(row, self.model.config),
        ).last_hidden_state[0, row.predicting]
        head, cap = self.model.get_output_embeddings(), getattr(self.model.config, "final_logit_softcapping", None)
        values: torch.Tensor = HeadLogprobs.apply(hidden, head.weight, head.bias, row.targets, cap)
        return values


class HeadLogprobs(torch.autograd.Function):
    """log softmax(cap tanh((W h + b) / cap)) at the target of every position, as the causal models of transformers do.

    Takes hidden states of shape (R, H), W of (V, H), b of (V,) or None, targets of (R,) and the cap or None; gives
    float32 of shape (R,). Logits exist for some positions at a time (`_at_a_time`), and are made again in the backward
    pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        cap: float | None,
    ) -> torch.Tensor:
        """See the class."""
        values, normalizers, size = [], [], _at_a_time(hidden)
        for part, wanted in zip(hidden.split(size), targets.split(size), strict=True):
            logits = _logits(part, weight, bias, cap)
            normalizers.append(logits.logsumexp(dim=-1))
            values.append(logits.gather(1, wanted[:, None])[:, 0] - normalizers[-1])
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(normalizers))
        ctx.cap = cap
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """See the class; the gradient of a logit is the target's one-hot less its probability."""
        hidden, weight, bias, *columns = ctx.saved_tensors
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        parts = (tensor.split(_at_a_time(hidden)) for tensor in (hidden, to_hidden, *columns, *gradients))
        for part, to_part, wanted, normalizer, gradient in zip(*parts, strict=True):
            logits = _logits(part, weight, bias, ctx.cap)
            slope = None if ctx.cap is None else 1 - (logits / ctx.cap).square()
            scores = logits.sub_(normalizer[:, None]).exp_().mul_(-gradient[:, None])
            scores.scatter_add_(1, wanted[:, None], gradient[:, None])
            if slope is not None:
                scores.mul_(slope)
            if to_bias is not None:
                to_bias += scores.sum(dim=0)
            rounded = scores.to(weight.dtype)
            torch.mm(rounded, weight, out=to_part)
            to_weight.addmm_(rounded.T, part)
        return to_hidden, to_weight, None if to_bias is None else to_bias.to(bias.dtype), None, None


def _at_a_time(hidden: torch.Tensor) -> int:
    return HEAD_POSITIONS_GPU if hidden.is_cuda else HEAD_POSITIONS


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, cap: float | None) -> torch.Tensor:
    """Float32 logits of shape (R, V)."""
    logits = functional.linear(hidden, weight, bias).float()
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


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
            f"base_model: {type(model).__name__} computes its logits in a way that sppo/models/network/attention.py or "
            "sppo/models/network/logprobs.py does not know; choose another architecture"
        )


def _own_logprobs(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    with attention.own(model):
        logits = model(input_ids=torch.tensor([[*prompt, *response]], device=model.device), use_cache=False).logits
    values = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return values.gather(1, torch.tensor(response, device=model.device)[:, None])[:, 0]
