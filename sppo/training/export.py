"""Handing pi_{t+1} on, and measuring how much of what was trained the saved model shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sppo.config.run import RunConfig
from sppo.models.adapters import adapt, is_adapted, load_adapted, load_merged, save_adapter
from sppo.models.fetch import Base, Policy, model_digest
from sppo.models.network import attention
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.policy import cast, load_policy, save_policy
from sppo.training.audit import Audit
from sppo.training.optimizer import RMSProp
from sppo.training.workers.parallel import Workers, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PUBLISHED = "bfloat16"
"""The type of published weights that may lose what was trained."""


def gather(optimizer: RMSProp) -> dict[str, torch.Tensor]:
    """The float32 weights that were trained, by the model's parameter names, on the CPU; every worker must ask."""
    return {name.removeprefix("model."): whole(weight) for name, weight in optimizer.weights.items()}


def export(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], start: Policy, output: Path) -> Policy:
    """Write what was trained: all weights of a model, or its adapter.

    Args:
        model: what was trained.
        weights: as `gather` gives them.
        start: pi_t.
        output: where to write.

    Returns:
        pi_{t+1}, as an engine takes it.
    """
    if is_adapted(model):
        save_adapter(model, Base(uri=start.base_uri, sha256=model_digest(start.base)), output, weights)
        return start._replace(adapter=output)
    save_policy(model, start.base, output, weights)
    return Policy(output, str(output))


@torch.no_grad()
def export_slopes(
    config: RunConfig,
    start: Policy,
    weights: Mapping[str, torch.Tensor],
    saved: Policy,
    audit: Audit,
    device: torch.device,
) -> dict[str, float]:
    """How much of what was trained a saved model shows: as the sampler loads it, and as it is published in bfloat16.

    The weights are what each of them rounds them to. What is computed with them is float32 everywhere: the noise of
    bfloat16 arithmetic is as large as what an iteration changes.

    Args:
        config: the types of the trainer's and the sampler's weights.
        start: pi_t.
        weights: what was trained, as `gather` gives it.
        saved: pi_{t+1}.
        audit: the pairs whose responses are compared.
        device: to compute on.

    Returns:
        `train/export_slope` and `train/publish_slope`.
    """
    attention.register()

    def logprobs(model: PreTrainedModel) -> torch.Tensor:
        cast(model.parameters(), torch.float32)
        return audit.logprobs(ResponseLogprobs(model.to(device).eval()), Workers(0, 1, device))

    computed: dict[str, torch.Tensor] = {}

    def slope_of(other: PreTrainedModel) -> float:
        if _equal(trained, other):  # as all weights of a model are, for a trainer and a sampler of one type
            return 1.0
        if not computed:
            computed["start"] = logprobs(load_adapted(start, config.train.dtype, attention.NAME))
            computed["trained"] = logprobs(trained)
        return slope(computed["trained"] - computed["start"], logprobs(other) - computed["start"])

    trained = _trained(config, start, weights)
    figures = {"train/export_slope": slope_of(load_adapted(saved, config.generate.dtype, attention.NAME))}
    figures["train/publish_slope"] = figures["train/export_slope"]
    if saved.adapter or config.generate.dtype != PUBLISHED:
        figures["train/publish_slope"] = slope_of(load_merged(saved, PUBLISHED, attention.NAME))
    return figures


def slope(trained: torch.Tensor, seen: torch.Tensor) -> float:
    """Slope of the least-squares line through the origin: 1 where a model is the trained one, 0 where it is pi_t.

    Args:
        trained: log-ratios that were trained, shape (n,), nats.
        seen: those of the same responses under another model, shape (n,).
    """
    size = float(trained.square().sum())
    return float((trained * seen).sum()) / size if size else 1.0


def _trained(config: RunConfig, start: Policy, weights: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """The trainer's model, which rounds the float32 weights to `train.dtype` before it computes."""
    dtype = getattr(torch, config.train.dtype)
    model = load_policy(start.base, "float32", attention.NAME)
    if config.train.lora.rank:
        adapt(model, config.train.lora, dtype, seed=0)
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(weight)
    cast(model.parameters(), dtype)
    return model


def _equal(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Whether two models have the same weights, bit for bit."""
    theirs = dict(other.named_parameters())
    own = dict(one.named_parameters())
    return own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
