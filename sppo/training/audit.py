"""The audit of the reference log-probabilities that the sampler stored: recompute some, and compare."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from sppo.config.sections.train import TrainConfig
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import within_budget
from sppo.training.update import Pair, group_of, reference_of
from sppo.training.workers.parallel import Workers


@torch.no_grad()
def audit_reference(
    scorer: ResponseLogprobs, pairs: list[Pair], config: TrainConfig, seed: int, group: Workers
) -> dict[str, float]:
    """Compare the sampler's log-probabilities with the trainer's own, before the first step.

    A share of the pairs is drawn and recomputed. Where the mean absolute difference of a token exceeds the tolerance,
    the sampler cannot be trusted as the reference: then all are recomputed, and the pairs' log-probabilities replaced.

    Args:
        scorer: pi_t, not trained yet.
        pairs: rows of `tables.PAIRS`; changed in place only where the audit fails.
        config: fraction, tolerance and arithmetic.
        seed: draws the pairs.
        group: the workers, which share the pairs.

    Returns:
        Mean and largest |difference| a token, mean |difference| a response, and whether the sampler's were replaced.
    """
    count = max(1, math.ceil(config.audit_fraction * len(pairs)))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = [pairs[i] for i in order[:count]]
    differences = [
        torch.tensor(own) - torch.tensor(stored)
        for pair, values in _recompute(scorer, drawn, config, group)
        for own, stored in zip(values, reference_of(pair), strict=True)
    ]
    tokens = torch.cat(differences).abs()
    figures = {
        "train/reference_audit_mean_abs": float(tokens.mean()),
        "train/reference_audit_max_abs": float(tokens.max()),
        "train/reference_audit_response_abs": float(torch.stack([d.sum().abs() for d in differences]).mean()),
        # Also where the mean is not a number, which is larger than nothing.
        "train/reference_recomputed": float(not tokens.mean() <= config.audit_tolerance),
    }
    group.say(
        f"reference audit: {count} of {len(pairs)} pairs, |difference| a token: mean "
        f"{figures['train/reference_audit_mean_abs']:.4f}, largest {figures['train/reference_audit_max_abs']:.4f} nats"
    )
    if figures["train/reference_recomputed"]:
        group.say(f"the mean exceeds {config.audit_tolerance}: recomputing all reference log-probabilities")
        for pair, (chosen, rejected, *others) in _recompute(scorer, pairs, config, group):
            pair |= {"chosen_logprobs": chosen, "rejected_logprobs": rejected, "other_logprobs": others}
    return figures


def _recompute(
    scorer: ResponseLogprobs, pairs: Sequence[Pair], config: TrainConfig, group: Workers
) -> list[tuple[Pair, list[list[float]]]]:
    """Each pair with the token log-probabilities of its responses under the model."""
    parts = list(within_budget(pairs, lambda pair: group_of(pair).tokens, config.micro_tokens))
    computed: dict[int, list[list[list[float]]]] = {}
    for first in range(0, len(parts), group.size):
        mine = min(first + group.rank, len(parts) - 1)  # sharded weights need everybody in every pass
        values = scorer.of([group_of(pair) for pair in parts[mine]])
        computed[mine] = [[own.tolist() for own in of_pair] for of_pair in values]
    everyone = {index: values for part in group.gather(computed) for index, values in part.items()}
    return [
        (pair, of_pair) for index, part in enumerate(parts) for pair, of_pair in zip(part, everyone[index], strict=True)
    ]
