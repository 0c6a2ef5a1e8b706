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

from sppo.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_POSITIONS = 2048
"""Positions whose logits exist at one time."""


def response_logprobs(
    model: PreTrainedModel, prompts: Sequence[list[int]], responses: Sequence[list[int]]
) -> list[torch.Tensor]:
    """log pi(token | prompt, earlier tokens) of every response token.

    Args:
        model: the policy; gradients flow where they are enabled.
        prompts: token ids, one prompt a response.
        responses: token ids, none empty.

    Returns:
        For each response a float32 tensor of shape (its tokens,), in nats.
    """
    rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    width = max(len(row) for row in rows)
    device = model.device
    # Padding on the right: with causal attention no real position can see it, so it needs no special token.
    inputs = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    hidden = model.base_model(input_ids=inputs, attention_mask=mask, use_cache=False).last_hidden_state
    predicting = torch.cat(
        [
            torch.arange(i * width + len(prompt) - 1, i * width + len(row) - 1)
            for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
        ]
    ).to(device)
    targets = torch.tensor([token for response in responses for token in response], device=device)
    flat = hidden.reshape(-1, hidden.shape[-1])[predicting]
    values = torch.cat(
        [
            checkpoint(
                _head_logprobs,
                model,
                flat[i : i + HEAD_POSITIONS],
                targets[i : i + HEAD_POSITIONS],
                use_reentrant=False,
            )
            for i in range(0, len(targets), HEAD_POSITIONS)
        ]
    )
    return list(values.split([len(response) for response in responses]))


def _head_logprobs(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = _logits(model, hidden).float()
    return -functional.cross_entropy(logits, targets, reduction="none")


def _logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Hidden states to logits, as `forward` of the causal models of transformers does."""
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Make sure that this module's logits are those of the model's own forward pass.

    Raises:
        ConfigError: for an architecture whose head does more than a matrix product and a soft cap.
    """
    ids = torch.tensor([[1, 2, 3, 4]], device=model.device)
    own = model(input_ids=ids, use_cache=False).logits
    ours = _logits(model, model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(own.float(), ours.float(), atol=1e-2, rtol=1e-2):
        raise ConfigError(
            f"base_model: the output head of {type(model).__name__} is not supported; its logits are rescaled in a way "
            "that sppo/logprobs.py does not know"
        )
