"""Train: fit log(pi_theta / pi_t) to the centred win probabilities (Algorithm 1, line 5), giving pi_{t+1}."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from sppo.algorithm.objectives.base import loss_at_start, needs_base
from sppo.algorithm.schedule import learning_rate
from sppo.config.identity import sha256_of
from sppo.config.plugins import OBJECTIVES
from sppo.config.run import RunConfig
from sppo.config.sections.train import TrainConfig
from sppo.errors import ConfigError, InfrastructureError
from sppo.models.adapters import adapt, fill
from sppo.models.fetch import Policy, fetch_policy, policy_digest
from sppo.models.network import attention
from sppo.models.network.lean import fuse, make_lean
from sppo.models.network.logprobs import ResponseLogprobs, check_model
from sppo.models.policy import empty_policy, load_policy, without_dropout
from sppo.seeds import derive_seed
from sppo.store import keys, tables
from sppo.store.base import Manifest, Store
from sppo.store.lineage import Lineage
from sppo.store.once import check_made_from, run_once
from sppo.store.opening import open_store
from sppo.training.again import check_as_before
from sppo.training.audit import Audit
from sppo.training.base_policy import base_logprobs, compare_with_base
from sppo.training.checkpoint import Checkpoints
from sppo.training.cutting import cut
from sppo.training.export import export, export_slopes, gather
from sppo.training.optimizer import RMSProp
from sppo.training.stopping import finishing_steps
from sppo.training.update import Batch, Pair, Updater, group_of, over_base_of, targets_of
from sppo.training.workers.parallel import Workers, forget_gathered, spread, workers


def train(
    config: RunConfig,
    iteration: int,
    model_uri: str,
    pairs: Sequence[Path],
    upstream: Mapping[str, float],
    distribution: Sequence[float] = (),
) -> tuple[str, Manifest]:
    """Train pi_{t+1} from pi_t on an iteration's pairs and commit it.

    Args:
        config: the run's resolved configuration.
        iteration: t, from 1.
        model_uri: where pi_t is: the start of the training and its reference.
        pairs: the pairs tables of all shards.
        upstream: the iteration's figures of generate and rank, kept together with those of the training.
        distribution: how often the judge's probabilities fell into each of equal bins of [0, 1], kept for the report.

    Returns:
        The URI of pi_{t+1} and its manifest, which holds the iteration's figures.
    """
    store = open_store(config.output_uri)
    lineage = Lineage(config, store)
    rows = read_pairs(pairs)
    with workers() as group:
        key = lineage.model_key(iteration)
        with group.first_of_node_goes_ahead():
            start = fetch_policy(model_uri) if store.manifest(key) is None else None
        digest = (start.digest() if start else policy_digest(model_uri)) if group.first else ""
        inputs = {
            "stage": lineage.train(iteration),
            "reference": group.gather(digest)[0],
            "pairs": sha256_of(rows),
        }
        check_made_from(store, lineage.chunk_key(iteration, 0), ("model",), inputs["reference"], model_uri)
        checkpoints = Checkpoints(store, lineage.checkpoints_key(iteration), inputs, group)

        def work(output: Path) -> Mapping[str, float]:
            (output / keys.DISTRIBUTION_FILE).write_text(json.dumps(list(distribution)))
            figures = _train(config, iteration, start or fetch_policy(model_uri), rows, checkpoints, output)
            if group.first:
                check_as_before(lineage, iteration, output)
            return {**upstream, **figures}

        if group.first:
            manifest: Manifest | None = run_once(store, key, inputs, work)
            checkpoints.clear()
        else:
            manifest = None
            _help(store, key, work)
        manifest = group.gather(manifest)[0]
    assert manifest is not None
    return f"{store.uri}/{key}", manifest


def _help(store: Store, key: str, work: Callable[[Path], object]) -> None:
    """Take part in the work of the worker that commits it."""
    if store.manifest(key) is None:
        with store.scratch() as folder:
            work(folder)


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
    config: RunConfig, iteration: int, start: Policy, pairs: list[Pair], checkpoints: Checkpoints, output: Path
) -> Mapping[str, float]:
    settings, group = config.train, checkpoints.group
    pairs, cuts = cut(pairs, settings)
    seed = derive_seed(config.seed, "adapters", iteration)
    of_base = None
    if iteration > 1 and needs_base(OBJECTIVES.load(settings.objective)):
        of_base = base_logprobs(
            config, checkpoints.store, iteration, pairs, group, lambda base: _load(base, settings, group, seed)
        )
    scorer = _load(start, settings, group, seed)
    optimizer = RMSProp(scorer, getattr(torch, settings.dtype), group)
    audit = Audit(pairs, settings, derive_seed(config.seed, "audit", iteration))
    figures = audit.reference(scorer, group)
    if of_base is not None:
        compare_with_base(pairs, of_base)
    scorer.train()
    updater = Updater(scorer, optimizer, group, settings)
    updater.budget = checkpoints.budget(settings)
    batches = plan(pairs, settings, derive_seed(config.seed, "train", iteration))
    steps_an_epoch = len(batches) // settings.epochs
    done, log = checkpoints.restore(optimizer.state())
    if done:
        optimizer.loaded()
        forget_gathered(scorer)  # those of pi_t, which the audit needed
        group.say(f"resuming after step {done} of {len(batches)}")
    began, tokens = time.monotonic(), 0
    with finishing_steps() as group.told:
        for batch in batches[done:]:
            # The dropout of adapters is a function of the step, so that a resumed training draws the same.
            torch.manual_seed(derive_seed(config.seed, "step", iteration, batch.step))
            rate = learning_rate(
                batch.step, steps_an_epoch, settings.learning_rate, settings.warmup_ratio, settings.schedule_epochs
            )
            try:
                log.append(updater.step(batch, rate))
            except InfrastructureError:
                checkpoints.keep_budget(settings, updater.budget)
                raise
            tokens += sum(group_of(pair).tokens for pair in batch.pairs)
            group.say(_line(log[-1], len(batches)))
            finished, signal = batch.step + 1, group.most(group.told())
            if signal or (finished % settings.checkpoint_every == 0 and finished < len(batches)):
                checkpoints.save(finished, optimizer.state(), log)
            if signal:
                group.say(f"told to stop: step {finished} of {len(batches)} is kept, resume to go on")
                raise SystemExit(128 + signal)
    seconds = time.monotonic() - began
    weights = gather(optimizer)
    if group.first:
        saved = export(scorer.model, weights, start, output)
        del scorer, optimizer, updater  # a large model and what was saved of it do not fit beside each other
        gc.collect()
        figures |= export_slopes(config, start, weights, saved, audit, group.device)
    (output / keys.TRAINING_LOG_FILE).write_text("".join(json.dumps(row) + "\n" for row in log))
    speed = {"train/seconds": seconds, "train/tokens_per_second": tokens / seconds}
    return figures | _figures(log, pairs, settings) | speed | {"train/cut_fraction": cuts / len(pairs)}


def _load(start: Policy, config: TrainConfig, group: Workers, seed: int) -> ResponseLogprobs:
    """pi_t, ready to be trained: float32 weights, packed attention, on this worker's device or divided among all."""
    attention.register()
    model = (load_policy if group.first else empty_policy)(start.base, "float32", attention.NAME)
    without_dropout(model)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.lora.rank:
        adapt(model, config.lora, getattr(torch, config.dtype), seed)
        if start.adapter and group.first:
            fill(model, start.adapter)
    model.eval()  # peft's layers begin in training mode: their dropout would change what the reference is held against
    if group.device.type == "cpu":
        make_lean(model)
    if group.size == 1:
        model.to(group.device)
    if group.first:
        check_model(model)
    if group.device.type == "cuda":
        fuse(model)
    scorer = ResponseLogprobs(model)
    if group.size > 1:
        spread(scorer, model._no_split_modules or [], group, getattr(torch, config.dtype))
    return scorer.to(group.device)


def _figures(log: Sequence[Mapping[str, float]], pairs: Sequence[Pair], config: TrainConfig) -> dict[str, float]:
    """The scalars of a training: means over its steps, and the end of the log-ratios."""
    last = log[-max(1, len(log) // 4) :]
    return {
        "train/loss": _mean(log, "loss"),
        "train/first_loss": log[0]["loss"],
        "train/loss_at_start": loss_at_start(
            OBJECTIVES.load(config.objective), map(targets_of, pairs), config, map(over_base_of, pairs)
        ),
        "train/grad_norm": _mean(log, "grad_norm"),
        "train/mean_abs_log_ratio": _mean(last, "mean_abs_log_ratio"),
        # The responses are samples of pi_t, so the mean of -r estimates KL(pi_t || pi_theta).
        "train/kl": -_mean(last, "mean_log_ratio"),
        "train/steps": float(len(log)),
    }


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return math.fsum(row[name] for row in rows) / len(rows)


def _line(row: Mapping[str, float], steps: int) -> str:
    return (
        f"step {row['step'] + 1:.0f} of {steps}: loss {row['loss']:.1f}, |log-ratio| {row['mean_abs_log_ratio']:.2f}, "
        f"gradient norm {row['grad_norm']:.0f}, learning rate {row['learning_rate']:.2e}"
    )
