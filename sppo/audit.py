"""The audit of the reference log-probabilities that the sampler stored: recompute some, and compare."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from sppo.config import TrainConfig
from sppo.logprobs import ResponseLogprobs
from sppo.packing import within_budget
from sppo.update import Pair, group_of


@torch.no_grad()
def audit_reference(scorer: ResponseLogprobs, pairs: list[Pair], config: TrainConfig, seed: int) -> dict[str, float]:
    """Compare the sampler's log-probabilities with the trainer's own, before the first step.

    A share of the pairs is drawn and recomputed. Where the mean absolute difference of a token exceeds the tolerance,
    the sampler cannot be trusted as the reference: then all are recomputed, and the pairs' log-probabilities replaced.

    Args:
        scorer: pi_t, not trained yet.
        pairs: rows of `tables.PAIRS`; changed in place only where the audit fails.
        config: fraction, tolerance and arithmetic.
        seed: draws the pairs.

    Returns:
        Mean and largest |difference| a token, mean |difference| a response, and whether the sampler's were replaced.
    """
    count = max(1, math.ceil(config.audit_fraction * len(pairs)))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = [pairs[i] for i in order[:count]]
    differences = [
        own - torch.tensor(pair[f"{role}_logprobs"]) for pair, role, own in _recompute(scorer, drawn, config)
    ]
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
        for pair, role, own in _recompute(scorer, pairs, config):
            pair[f"{role}_logprobs"] = own.tolist()
    return figures


def _recompute(
    scorer: ResponseLogprobs, pairs: Sequence[Pair], config: TrainConfig
) -> list[tuple[Pair, str, torch.Tensor]]:
    """Each response of the pairs with its token log-probabilities under the model, on the CPU."""
    results: list[tuple[Pair, str, torch.Tensor]] = []
    for part in within_budget(pairs, lambda pair: group_of(pair).tokens, config.micro_tokens):
        for pair, values in zip(part, scorer.of([group_of(pair) for pair in part]), strict=True):
            results += [(pair, role, own.cpu()) for role, own in zip(("chosen", "rejected"), values, strict=True)]
    return results
