"""The audit: a share of the pairs, by which the sampler and the saved model are compared with the trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from sppo.config.sections.train import TrainConfig
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import within_budget
from sppo.training.cutting import has_reference
from sppo.training.update import Pair, group_of, reference_of
from sppo.training.workers.parallel import Workers

FEWEST = 16
"""Pairs to draw, where there are as many: a slope through fewer is mostly chance."""


class Audit:
    """The pairs that were drawn."""

    def __init__(self, pairs: list[Pair], config: TrainConfig, seed: int) -> None:
        """Draw.

        Args:
            pairs: rows of `tables.PAIRS`.
            config: fraction, tolerance and arithmetic.
            seed: draws the pairs.
        """
        self.pairs, self.config = pairs, config
        known = [pair for pair in pairs if has_reference(pair)]
        self.comparable = bool(known)
        known = known or pairs
        count = min(len(known), max(FEWEST, math.ceil(config.audit_fraction * len(known))))
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed)).tolist()
        self.drawn = [known[i] for i in order[:count]]

    def reference(self, scorer: ResponseLogprobs, group: Workers) -> dict[str, float]:
        """Compare the sampler's log-probabilities with the trainer's own, before the first step.

        Where the mean absolute difference of a token exceeds the tolerance, the sampler cannot be trusted as the
        reference: then all are recomputed, and the pairs' log-probabilities replaced. Where a cut prompt left none,
        they are computed in any case.

        Args:
            scorer: pi_t, not trained yet.
            group: the workers, which share the pairs.

        Returns:
            Mean and largest |difference| a token, mean |difference| a response, and whether the sampler's were
            replaced; only this last one where no pair has log-probabilities of the sampler.
        """
        figures = self._compare(scorer, group) if self.comparable else {"train/reference_recomputed": 1.0}
        if figures["train/reference_recomputed"]:
            self._replace(scorer, group, self.pairs)
        elif lacking := [pair for pair in self.pairs if not has_reference(pair)]:
            group.say(f"computing reference log-probabilities of {len(lacking)} pairs whose prompts were cut")
            self._replace(scorer, group, lacking)
        return figures

    def _compare(self, scorer: ResponseLogprobs, group: Workers) -> dict[str, float]:
        recomputed = self._recompute(scorer, self.drawn, group)
        differences = [
            torch.tensor(own) - torch.tensor(stored)
            for pair, values in zip(self.drawn, recomputed, strict=True)
            for own, stored in zip(values, reference_of(pair), strict=True)
        ]
        tokens = torch.cat(differences).abs()
        figures = {
            "train/reference_audit_mean_abs": float(tokens.mean()),
            "train/reference_audit_max_abs": float(tokens.max()),
            "train/reference_audit_response_abs": float(torch.stack([d.sum().abs() for d in differences]).mean()),
            # Also where the mean is not a number, which is larger than nothing.
            "train/reference_recomputed": float(not tokens.mean() <= self.config.audit_tolerance),
        }
        group.say(
            f"reference audit: {len(self.drawn)} of {len(self.pairs)} pairs, |difference| a token: mean "
            f"{figures['train/reference_audit_mean_abs']:.4f}, largest "
            f"{figures['train/reference_audit_max_abs']:.4f} nats"
        )
        if figures["train/reference_recomputed"]:
            group.say(f"the mean exceeds {self.config.audit_tolerance}: recomputing all reference log-probabilities")
        return figures

    def _replace(self, scorer: ResponseLogprobs, group: Workers, pairs: Sequence[Pair]) -> None:
        for pair, (chosen, rejected, *others) in zip(pairs, self._recompute(scorer, pairs, group), strict=True):
            pair |= {"chosen_logprobs": chosen, "rejected_logprobs": rejected, "other_logprobs": others}

    def logprobs(self, scorer: ResponseLogprobs, group: Workers) -> torch.Tensor:
        """Log-probabilities of the drawn pairs' responses under a model, in nats; float64, shape (responses,)."""
        drawn = self._recompute(scorer, self.drawn, group)
        return torch.tensor([math.fsum(own) for of_pair in drawn for own in of_pair], dtype=torch.float64)

    def _recompute(self, scorer: ResponseLogprobs, pairs: Sequence[Pair], group: Workers) -> list[list[list[float]]]:
        return token_logprobs(scorer, pairs, group, self.config.micro_tokens)


@torch.no_grad()
def token_logprobs(
    scorer: ResponseLogprobs, pairs: Sequence[Pair], group: Workers, micro_tokens: int
) -> list[list[list[float]]]:
    """Each pair's token log-probabilities of its responses under a model, in nats, in the order of `group_of`.

    Args:
        scorer: the model.
        pairs: whose responses.
        group: the workers, which share the pairs.
        micro_tokens: tokens of one pass through the model.
    """
    parts = list(within_budget(pairs, lambda pair: group_of(pair).tokens, micro_tokens))
    computed: dict[int, list[list[list[float]]]] = {}
    for first in range(0, len(parts), group.size):
        mine = min(first + group.rank, len(parts) - 1)  # sharded weights need everybody in every pass
        values = scorer.of([group_of(pair) for pair in parts[mine]])
        computed[mine] = [[own.tolist() for own in of_pair] for of_pair in values]
    everyone = {index: values for part in group.gather(computed) for index, values in part.items()}
    return [of_pair for index in range(len(parts)) for of_pair in everyone[index]]
