"""Train: fit log(pi_theta / pi_t) to the centred win probabilities (Algorithm 1, line 5), giving pi_{t+1}."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sppo import layout, tables
from sppo.audit import audit_reference
from sppo.checkpoint import Checkpoints
from sppo.config import RunConfig, TrainConfig
from sppo.errors import ConfigError, RunFailedError
from sppo.logprobs import check_head, response_logprobs
from sppo.models import fetch_model, model_digest
from sppo.objective import loss_at_start, sppo_loss
from sppo.policy import autocast, device_for, load_policy, save_policy
from sppo.schedule import learning_rate
from sppo.seeds import derive_seed
from sppo.store import Manifest, open_store, run_once

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pair = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """The pairs of one optimizer step."""

    step: int
    pairs: list[Pair]


def train(
    config: RunConfig, iteration: int, model_uri: str, pairs: Sequence[Path], upstream: Mapping[str, float]
) -> tuple[str, Manifest]:
    """Train pi_{t+1} from pi_t on an iteration's pairs and commit it.

    Args:
        config: the run's resolved configuration.
        iteration: t, from 1.
        model_uri: where pi_t is: the start of the training and its reference.
        pairs: the pairs tables of all shards.
        upstream: the iteration's figures of generate and rank, kept together with those of the training.

    Returns:
        The URI of pi_{t+1} and its manifest, which holds the iteration's figures.
    """
    store = open_store(config.output_uri)
    folder = fetch_model(model_uri)
    rows = read_pairs(pairs)
    inputs = {
        "config": config.digest(),
        "reference": model_digest(folder),
        "pairs": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
    }
    checkpoints = Checkpoints(store, layout.checkpoints(iteration), inputs)
    key = layout.model(iteration)

    def work(output: Path) -> Mapping[str, float]:
        return {**upstream, **_train(config, iteration, folder, rows, checkpoints, output)}

    manifest = run_once(store, key, inputs, work)
    checkpoints.clear()
    return f"{store.uri}/{key}", manifest


def read_pairs(paths: Sequence[Path]) -> list[Pair]:
    """The pairs of all shards, in the order of their prompts' ids, which no number of shards can change.

    Raises:
        ConfigError: if there is no pair at all.
    """
    pairs = sorted((row for path in paths for row in tables.read(path, tables.PAIRS)), key=lambda r: r["prompt_id"])
    if not pairs:
        raise ConfigError("pairs: no prompt has two responses of different preference; give more prompts or responses")
    return pairs


def plan(pairs: Sequence[Pair], config: TrainConfig, seed: int) -> list[Batch]:
    """The optimizer steps of a training: each epoch shuffles the pairs and cuts them into global batches."""
    generator = torch.Generator().manual_seed(seed)
    batches: list[Batch] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(pairs), generator=generator).tolist()
        for start in range(0, len(order), config.global_batch):
            chosen = [pairs[i] for i in order[start : start + config.global_batch]]
            batches.append(Batch(len(batches), chosen))
    return batches


def _train(
    config: RunConfig, iteration: int, folder: Path, pairs: list[Pair], checkpoints: Checkpoints, output: Path
) -> Mapping[str, float]:
    settings = config.train
    model = load_policy(folder, "float32").to(device_for())
    check_head(model)
    figures = audit_reference(model, pairs, settings, derive_seed(config.seed, "audit", iteration))
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=settings.learning_rate)
    batches = plan(pairs, settings, derive_seed(config.seed, "train", iteration))
    steps_an_epoch = len(batches) // settings.epochs
    done, log = checkpoints.restore(model, optimizer)
    if done:
        print(f"resuming after step {done} of {len(batches)}", flush=True)
    start, tokens = time.monotonic(), 0
    for batch in batches[done:]:
        # Dropout, where a model has it, is a function of the step, so that a resumed training draws the same.
        torch.manual_seed(derive_seed(config.seed, "step", iteration, batch.step))
        rate = learning_rate(
            batch.step, steps_an_epoch, settings.learning_rate, settings.warmup_ratio, settings.schedule_epochs
        )
        log.append(optimizer_step(model, optimizer, batch, settings, rate))
        tokens += sum(len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in batch.pairs)
        print(_line(log[-1], len(batches)), flush=True)
        finished = batch.step + 1
        if finished % settings.checkpoint_every == 0 and finished < len(batches):
            checkpoints.save(finished, model, optimizer, log)
    seconds = time.monotonic() - start
    save_policy(model, folder, output)
    (output / layout.TRAINING_LOG_FILE).write_text("".join(json.dumps(row) + "\n" for row in log))
    return (
        figures
        | _figures(log, pairs, settings)
        | {
            "train/seconds": seconds,
            "train/tokens_per_second": tokens / seconds,
        }
    )


def optimizer_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: Batch, config: TrainConfig, rate: float
) -> dict[str, float]:
    """Accumulate the gradient of a batch's mean loss over micro-batches, and take one clipped RMSProp step.

    Returns:
        The step's log row.

    Raises:
        RunFailedError: if the loss or the gradient is not finite, naming the step and the prompts; no weight changed.
    """
    optimizer.zero_grad(set_to_none=True)
    losses: list[torch.Tensor] = []
    ratios: list[torch.Tensor] = []
    for start in range(0, len(batch.pairs), config.micro_batch):
        micro = batch.pairs[start : start + config.micro_batch]
        loss, ratio = pair_losses(model, micro, config)
        (loss.sum() / len(batch.pairs)).backward()
        losses.append(loss.detach())
        ratios.append(ratio.detach())
    loss = torch.cat(losses).mean()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        ids = ", ".join(pair["prompt_id"] for pair in batch.pairs)
        raise RunFailedError(f"step {batch.step}: the loss or its gradient is not finite for the prompts {ids}")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    ratio = torch.cat(ratios)
    return {
        "step": batch.step,
        "loss": float(loss),
        "learning_rate": rate,
        "grad_norm": float(norm),
        "chosen_log_ratio": float(ratio[:, 0].mean()),
        "rejected_log_ratio": float(ratio[:, 1].mean()),
        "mean_abs_log_ratio": float(ratio.abs().mean()),
    }


def pair_losses(
    model: PreTrainedModel, pairs: Sequence[Pair], config: TrainConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of shape (pairs,) and log-ratios (chosen, rejected) of shape (pairs, 2), in nats.

    The reference log-probabilities are those that the sampler stored: no reference model is needed.
    """
    with autocast(model, config.dtype):
        logprobs = response_logprobs(
            model,
            [pair["prompt_ids"] for pair in pairs for _ in range(2)],
            [pair[ids] for pair in pairs for ids in ("chosen_ids", "rejected_ids")],
        )
    reference = [sum(pair[name]) for pair in pairs for name in ("chosen_logprobs", "rejected_logprobs")]
    policy = torch.stack([row.sum() for row in logprobs])
    ratio = (policy - torch.tensor(reference, device=policy.device)).reshape(-1, 2)
    p_chosen, p_rejected = (
        torch.tensor([pair[name] for pair in pairs], device=policy.device) for name in ("p_chosen", "p_rejected")
    )
    return sppo_loss(ratio[:, 0], ratio[:, 1], p_chosen, p_rejected, config.eta), ratio


def _figures(log: Sequence[Mapping[str, float]], pairs: Sequence[Pair], config: TrainConfig) -> dict[str, float]:
    """The scalars of a training: means over its steps, and the end of the log-ratios."""
    last = log[-max(1, len(log) // 4) :]
    chosen, rejected = (torch.tensor([pair[name] for pair in pairs]) for name in ("p_chosen", "p_rejected"))
    return {
        "train/loss": _mean(log, "loss"),
        "train/first_loss": log[0]["loss"],
        "train/loss_at_start": loss_at_start(chosen, rejected, config.eta),
        "train/grad_norm": _mean(log, "grad_norm"),
        "train/mean_abs_log_ratio": _mean(last, "mean_abs_log_ratio"),
        # The pairs are samples of pi_t, so the mean of -r estimates KL(pi_t || pi_theta).
        "train/kl": -(_mean(last, "chosen_log_ratio") + _mean(last, "rejected_log_ratio")) / 2,
        "train/steps": float(len(log)),
    }


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return math.fsum(row[name] for row in rows) / len(rows)


def _line(row: Mapping[str, float], steps: int) -> str:
    return (
        f"step {row['step'] + 1:.0f} of {steps}: loss {row['loss']:.1f}, |log-ratio| {row['mean_abs_log_ratio']:.2f}, "
        f"gradient norm {row['grad_norm']:.0f}, learning rate {row['learning_rate']:.2e}"
    )
