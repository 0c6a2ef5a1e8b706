"""The audit of the reference log-probabilities that the sampler stored: recompute some, and compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sppo.config import TrainConfig
from sppo.logprobs import response_logprobs
from sppo.policy import autocast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS = 8
"""Responses of one forward pass of the audit."""


@torch.inference_mode()
def audit_reference(
    model: PreTrainedModel, pairs: list[dict[str, Any]], config: TrainConfig, seed: int
) -> dict[str, float]:
    """Compare the sampler's log-probabilities with the trainer's own, before the first step.

    A share of the pairs is drawn and recomputed. Where the mean absolute difference of a token exceeds the tolerance,
    the sampler cannot be trusted as the reference: then all are recomputed, and the pairs' log-probabilities replaced.

    Args:
        model: pi_t, not trained yet.
        pairs: rows of `tables.PAIRS`; changed in place only where the audit fails.
        config: fraction, tolerance and arithmetic.
        seed: draws the pairs.

    Returns:
        Mean and largest |difference| a token, mean |difference| a response, and whether the sampler's were replaced.
    """
    count = max(1, math.ceil(config.audit_fraction * len(pairs)))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = [pairs[i] for i in order[:count]]
    differences = [own - torch.tensor(pair[f"{role}_logprobs"]) for pair, role, own in _recompute(model, drawn, config)]
    tokens = torch.cat(differences).abs()
    figures = {
        "train/reference_audit_mean_abs": float(tokens.mean()),
        "train/reference_audit_max_abs": float(tokens.max()),
        "train/reference_audit_response_abs": float(torch.stack([d.sum().abs() for d in differences]).mean()),
        "train/reference_recomputed": float(tokens.mean() > config.audit_tolerance),
    }
    print(
        f"reference audit: {count} of {len(pairs)} pairs, |difference| a token: mean "
        f"{figures['train/reference_audit_mean_abs']:.4f}, largest {figures['train/reference_audit_max_abs']:.4f} nats",
        flush=True,
    )
    if figures["train/reference_recomputed"]:
        print(f"the mean exceeds {config.audit_tolerance}: recomputing all reference log-probabilities", flush=True)
        for pair, role, own in _recompute(model, pairs, config):
            pair[f"{role}_logprobs"] = own.tolist()
    return figures


def _recompute(
    model: PreTrainedModel, pairs: Sequence[dict[str, Any]], config: TrainConfig
) -> list[tuple[dict[str, Any], str, torch.Tensor]]:
    """Each response of the pairs with its token log-probabilities under the model, on the CPU."""
    rows = [(pair, role) for pair in pairs for role in ("chosen", "rejected")]
    results: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        with autocast(model, config.dtype):
            own = response_logprobs(
                model, [pair["prompt_ids"] for pair, _ in part], [pair[f"{role}_ids"] for pair, role in part]
            )
        results += [(pair, role, values.cpu()) for (pair, role), values in zip(part, own, strict=True)]
    return results
