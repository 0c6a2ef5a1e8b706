"""Training an encoder on labelled preference pairs."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.agreement import agreement, calibrate, logits_of_pairs, paired_test, reliability
from sppo.judging.batching import batches
from sppo.judging.judge import Judge
from sppo.judging.labelled_pairs import Pair, read_pairs, split
from sppo.judging.load import load_judge
from sppo.judging.pairwise.card import write_card
from sppo.judging.pairwise.encoder import DTYPES, PairwiseEncoder, build, forward, save_adapter
from sppo.judging.pairwise.encoder_config import (
    AnyEncoderConfig,
    EncoderConfig,
    GeneralPreferenceConfig,
    PairwiseEncoderConfig,
    TrainPreferenceConfig,
)
from sppo.judging.pairwise.layout import Layout
from sppo.judging.pairwise.modules import EncoderNetwork
from sppo.models.fetch import fetch_model, model_digest

Triple = tuple[list[int], list[int], list[int]]
MICRO_BATCH_TOKENS = 4096
REPORT_SECONDS = 5.0
FEW = 100
"""Training pairs below which a judge has next to nothing to learn from."""


def train_preference(config: TrainPreferenceConfig) -> dict[str, Any]:
    """Train, calibrate, measure and write an encoder; prints a line every few seconds.

    The loss of a pair is -log sigmoid(logit of the chosen response); an encoder of pairs sees the two responses in
    random order. The same configuration gives the same bytes on the same machine with the same number of threads.

    Returns:
        "train_pairs", "seconds", "temperature", and under "development" and "evaluate" the figures of
        `measure.agreement` for each training file's development pairs and each held-out file; where there are held-out
        files "reliability", the curve of `measure.reliability` over all of them; where there is a baseline too its
        name, "baseline", and "comparison", `measure.paired_test` for each held-out file and for all.

    Raises:
        ConfigError: if a file is missing or wrong, or the encoder or the baseline does not fit.
    """
    began = time.monotonic()
    if (Path(config.output) / "config.json").exists():
        print(f"warning: {config.output} holds a judge, which this one replaces: no run goes on with that", flush=True)
    held_out = {name: read_pairs(path) for name, path in config.evaluate.items()}
    parts = {path: split(read_pairs(path), config.development, config.seed) for path in config.train}
    training = [pair for part, _ in parts.values() for pair in part]
    development = {Path(path).name: part for path, (_, part) in parts.items() if part}
    if not training or not development:
        raise ConfigError(
            "train: too few pairs to set development pairs aside; give more pairs or change `development`"
        )
    if len(training) < FEW:
        print(
            f"warning: {len(training)} pairs to train on show the way, and hardly more; give {FEW} or more", flush=True
        )
    # Loaded before training: it may be the very judge that the output replaces.
    baseline = load_judge(config.baseline, JudgeConfig(dtype=config.dtype, cache=False)) if config.baseline else None
    with _made_beside(Path(config.output)) as folder:
        network = _fit(config, training)
        temperature = _calibrate(
            network, folder, config.dtype, [pair for each in development.values() for pair in each]
        )
        model = PairwiseEncoder(folder, config.output, dtype=config.dtype)
        result = {"train_pairs": len(training), "temperature": temperature}
        result |= _measure(model, development, held_out, baseline)
        result["seconds"] = time.monotonic() - began
        write_card(config, result, folder)
    print(f"the judge is in {config.output}: `sppo judge FILE --judge {config.output}` asks it", flush=True)
    return result


@contextmanager
def _made_beside(output: Path) -> Iterator[Path]:
    """A folder beside the output, whose files take their places at the end: what interrupts before changes nothing."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as made:
        yield Path(made)
        output.mkdir(exist_ok=True)
        # Without config.json it is no judge: that of an earlier one goes first, that of the new one comes last.
        (output / "config.json").unlink(missing_ok=True)
        for file in sorted(Path(made).iterdir(), key=lambda each: each.name == "config.json"):
            file.replace(output / file.name)


def _measure(
    model: PairwiseEncoder, development: dict[str, list[Pair]], held_out: dict[str, list[Pair]], baseline: Judge | None
) -> dict[str, Any]:
    logits = {name: logits_of_pairs(model, pairs) for name, pairs in held_out.items()}
    result: dict[str, Any] = {
        "development": {name: agreement(part, logits_of_pairs(model, part)) for name, part in development.items()},
        "evaluate": {name: agreement(pairs, logits[name]) for name, pairs in held_out.items()},
    }
    for kind, of_files in result.items():
        for name, figures in of_files.items():
            print(f"{kind} {name}: accuracy {figures['accuracy']:.3f}, {figures['pairs']} pairs", flush=True)
    if held_out:
        result["reliability"] = reliability(np.concatenate(list(logits.values())))
    if held_out and baseline:
        result |= {"baseline": baseline.name, "comparison": _comparison(baseline, held_out, logits)}
    return result


def _comparison(
    baseline: Judge, held_out: dict[str, list[Pair]], logits: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    old = {name: logits_of_pairs(baseline, pairs) for name, pairs in held_out.items()}
    tests = {name: paired_test(old[name], logits[name]) for name in held_out}
    return tests | {"all": paired_test(*(np.concatenate(list(each.values())) for each in (old, logits)))}


def _fit(config: TrainPreferenceConfig, pairs: Sequence[Pair]) -> EncoderNetwork:
    torch.manual_seed(config.seed)
    order = random.Random(config.seed)
    encoder_folder = fetch_model(config.encoder)
    layout, network = build(_model_config(config, model_digest(encoder_folder)), encoder_folder, DTYPES[config.dtype])
    # Only the head's dropout is on: the encoder is frozen, and its dropout would cost more than the matrix products.
    network.head.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * -(-len(pairs) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        config.learning_rate,
        total_steps=steps + 1,
        pct_start=0.1,
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    layout = dataclasses.replace(layout, max_length=min(config.training_length, config.max_length))
    triples = _tokenize(layout, pairs)
    progress = _Progress(steps, config.batch_size)
    for _ in range(config.epochs):
        order.shuffle(triples)
        for start in range(0, len(triples), config.batch_size):
            loss = _backward(network, layout, triples[start : start + config.batch_size], order)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.step(loss)
    return network


def _model_config(config: TrainPreferenceConfig, encoder_sha256: str) -> AnyEncoderConfig:
    shared = config.model_dump(include=set(EncoderConfig.model_fields)) | {"encoder_sha256": encoder_sha256}
    if config.kind == "gpm":
        return GeneralPreferenceConfig(dimension=config.dimension, **shared)
    return PairwiseEncoderConfig(encodes=config.encodes, **shared)


def _tokenize(layout: Layout, pairs: Sequence[Pair]) -> list[Triple]:
    columns = [layout.tokenize([getattr(pair, name) for pair in pairs]) for name in ("prompt", "chosen", "rejected")]
    return list(zip(*columns, strict=True))


def _backward(network: EncoderNetwork, layout: Layout, triples: Sequence[Triple], order: random.Random) -> float:
    """Add the gradient of the mean loss of one optimizer step's pairs; returns that loss."""
    shown = [_shown(triple, network.config.together, order) for triple in triples]
    lengths = [sum(layout.length(*map(len, row)) for row in rows) for rows, _ in shown]
    total = 0.0
    for part in batches(lengths, MICRO_BATCH_TOKENS):
        sequences = layout.batch([row for pair in part for row in shown[pair][0]])
        values = forward(network, sequences, torch.device("cpu")).unflatten(0, (len(part), -1))
        margins = torch.tensor([shown[pair][1] for pair in part]) * network.logits(values)
        loss = -logsigmoid(margins).sum() / len(triples)
        loss.backward()
        total += loss.item()
    return total


def _shown(triple: Triple, together: bool, order: random.Random) -> tuple[list[tuple[list[int], ...]], float]:
    """The sequences of a pair, and the sign that makes its logit that of the chosen response."""
    source, chosen, rejected = triple
    if not together:
        return [(source, chosen), (source, rejected)], 1.0
    if order.random() < 0.5:
        return [(source, rejected, chosen)], -1.0
    return [(source, chosen, rejected)], 1.0


def _calibrate(network: EncoderNetwork, folder: Path, dtype: str, pairs: Sequence[Pair]) -> float:
    """Fit the temperature on the development pairs and save the model with it."""
    save_adapter(network, folder)
    fitted = calibrate(logits_of_pairs(PairwiseEncoder(folder, str(folder), dtype=dtype), pairs))
    temperature = fitted * network.config.temperature
    network.config = network.config.model_copy(update={"temperature": temperature})
    save_adapter(network, folder)
    return temperature


class _Progress:
    """Prints the mean loss since the last line, every few seconds."""

    def __init__(self, steps: int, batch_size: int) -> None:
        self.steps, self.batch_size, self.done = steps, batch_size, 0
        self.losses: list[float] = []
        self.reported = time.monotonic()

    def step(self, loss: float) -> None:
        self.done += 1
        self.losses.append(loss)
        seconds = time.monotonic() - self.reported
        if seconds > REPORT_SECONDS or self.done == self.steps:
            rate = len(self.losses) * self.batch_size / seconds
            mean = sum(self.losses) / len(self.losses)
            print(f"step {self.done}/{self.steps}: loss {mean:.4f}, {rate:.1f} pairs/s", flush=True)
            self.losses, self.reported = [], time.monotonic()
