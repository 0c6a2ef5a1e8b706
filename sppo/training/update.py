"""One step of the optimizer: a global batch of pairs, its loss and gradient, and the move of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sppo.algorithm.objectives.base import AT_THE_BASE, Objective, Responses
from sppo.config.plugins import OBJECTIVES
from sppo.config.sections.train import TrainConfig
from sppo.errors import InfrastructureError, RunFailedError
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import Group, pack, within_budget
from sppo.training.optimizer import RMSProp
from sppo.training.workers.parallel import Workers

Pair = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """The pairs of one optimizer step."""

    step: int
    pairs: list[Pair]


def group_of(pair: Pair) -> Group:
    """A pair's prompt with its chosen, its rejected and its further responses."""
    return Group(pair["prompt_ids"], [pair["chosen_ids"], pair["rejected_ids"], *pair["other_ids"]])


def reference_of(pair: Pair) -> list[list[float]]:
    """The stored log-probabilities of the tokens of each of a pair's responses, in the order of `group_of`."""
    return [pair["chosen_logprobs"], pair["rejected_logprobs"], *pair["other_logprobs"]]


def targets_of(pair: Pair) -> torch.Tensor:
    """P(y > pi_t | x) of each of a pair's responses, in the order of `group_of`; shape (n,)."""
    return torch.tensor([pair["p_chosen"], pair["p_rejected"], *pair["p_others"]])


def over_base_of(pair: Pair) -> torch.Tensor:
    """log pi_t(y|x) - log mu(y|x) of each of a pair's responses, if `compare_with_base` noted it; shape (n,) or ()."""
    return torch.tensor(pair["over_base"]) if "over_base" in pair else AT_THE_BASE


def divide(pairs: Sequence[Pair], workers: int, budget: int) -> list[list[list[Pair]]]:
    """Each worker's passes through the model, as many for every worker, of at most `budget` tokens a pass.

    The longest pairs are dealt out first, to whoever has the fewest tokens, so that nobody waits long for another. A
    worker with fewer passes than others gets empty ones: sharded weights need everybody in every pass.
    """
    shares: list[list[Pair]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for pair in sorted(pairs, key=lambda pair: -group_of(pair).tokens):
        least = loads.index(min(loads))
        shares[least].append(pair)
        loads[least] += group_of(pair).tokens
    passes = [list(within_budget(share, lambda pair: group_of(pair).tokens, budget)) for share in shares]
    most = max(map(len, passes))
    return [own + [[]] * (most - len(own)) for own in passes]


class Updater:
    """Moves a policy by one global batch at a time.

    Attributes:
        budget: tokens of one pass through the model; halved when memory runs out, which does not change the update.
    """

    def __init__(self, scorer: ResponseLogprobs, optimizer: RMSProp, group: Workers, config: TrainConfig) -> None:
        self.scorer, self.optimizer, self.group, self.config = scorer, optimizer, group, config
        self.objective: Objective = OBJECTIVES.load(config.objective)
        self.budget = config.micro_tokens

    def step(self, batch: Batch, rate: float) -> dict[str, float]:
        """Take one clipped step on the batch's mean loss.

        Returns:
            The step's log row.

        Raises:
            RunFailedError: if the loss or the gradient is not finite, naming the step and the prompts.
            InfrastructureError: if there is not enough memory for a single pair, or, with several workers, for a pass
                of `budget` tokens; the next attempt can begin with the budget that is left here.
            No weight has changed then.
        """
        while True:
            try:
                return self._step(batch, rate)
            except RuntimeError as error:
                self.optimizer.forget()
                if not _out_of_memory(error):
                    raise
                self._make_room(batch, error)

    def _make_room(self, batch: Batch, error: RuntimeError) -> None:
        longest = max(group_of(pair).tokens for pair in batch.pairs)
        if self.budget <= longest:
            raise InfrastructureError(
                f"step {batch.step}: out of memory with passes of {self.budget} tokens, which hold a single pair; set "
                "train.gradient_checkpointing=true or train.lora.rank=16, or give more memory"
            ) from error
        self.budget = max(self.budget // 2, longest)
        if self.group.size > 1:
            # Workers that share weights cannot repeat a pass that one of them has left.
            raise InfrastructureError(
                f"step {batch.step}: worker {self.group.rank} is out of memory; resume, and the training goes on with "
                f"passes of {self.budget} tokens"
            ) from error
        if self.group.device.type != "cpu":
            torch.accelerator.empty_cache()
        print(f"out of memory: going on with passes of {self.budget} tokens", flush=True)

    def _step(self, batch: Batch, rate: float) -> dict[str, float]:
        passes = divide(batch.pairs, self.group.size, self.budget)[self.group.rank]
        self.optimizer.several = len(passes) > 1
        totals: list[torch.Tensor] = []
        finite: list[torch.Tensor] = []
        for pairs in passes:
            losses, ratios = pair_losses(self.scorer, pairs or batch.pairs[:1], self.objective, self.config)
            if pairs:
                shown = torch.stack([torch.stack([r[0], r[1], r.mean(), r.abs().mean()]) for r in ratios])
                totals.append(torch.column_stack([losses, shown]).detach().sum(dim=0))
                finite.append(losses.detach().isfinite())
            # Sharded gradients are averaged over the workers, and each worker has a part of the batch.
            scale = self.group.size / len(batch.pairs) if pairs else 0.0
            (losses.sum() * scale).backward()
            if len(passes) > 1:  # sharded gradients arrive without a word
                self.optimizer.accumulate()
        # Read after the last pass: a GPU is given the next pass while it still computes this one.
        sums = [math.fsum(column) for column in zip([0.0] * 5, *(total.tolist() for total in totals), strict=True)]
        loss, chosen, rejected, mean, size = (total / len(batch.pairs) for total in self.group.sum(sums))
        norm = self.optimizer.gradient_norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizer.forget()
            fine = [each for flags in finite for each in flags.tolist()]
            mine = [pair for pairs in passes for pair in pairs]
            bad = [pair["prompt_id"] for pair, is_fine in zip(mine, fine, strict=True) if not is_fine]
            named = [name for names in self.group.gather(bad) for name in names]
            whose = ", ".join(named or [pair["prompt_id"] for pair in batch.pairs])
            raise RunFailedError(
                f"step {batch.step}: the {'loss' if named else 'gradient'} is not finite for the prompts {whose}"
            )
        self.optimizer.step(rate, norm, self.config.max_grad_norm)
        return {
            "step": batch.step,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "chosen_log_ratio": chosen,
            "rejected_log_ratio": rejected,
            "mean_log_ratio": mean,
            "mean_abs_log_ratio": size,
        }


def pair_losses(
    scorer: ResponseLogprobs, pairs: Sequence[Pair], objective: Objective, config: TrainConfig
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Losses of shape (pairs,), and each pair's log-ratios of shape (its responses,), in nats.

    The reference log-probabilities are those that the sampler stored: no reference model is needed.
    """
    row = pack([group_of(pair) for pair in pairs], scorer.device)
    policy = torch.stack([values.sum() for values in scorer(row).split(row.response_lengths)])
    reference = [math.fsum(logprobs) for pair in pairs for logprobs in reference_of(pair)]
    targets = [targets_of(pair).to(policy.device) for pair in pairs]
    ratios = (policy - torch.tensor(reference, device=policy.device)).split([len(p) for p in targets])
    over_base = [over_base_of(pair).to(policy.device) for pair in pairs]
    responses = map(Responses, ratios, targets, over_base)
    losses = [objective.loss(each, config) for each in responses]
    return torch.stack(losses), list(ratios)


def _out_of_memory(error: RuntimeError) -> bool:
    # The CPU's allocator has no exception class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
