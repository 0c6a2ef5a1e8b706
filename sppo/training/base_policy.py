"""The base's log-probabilities, for objectives that hold the policy to it: computed once, before the first step.

They are committed beside the model. So the base is not in memory while the policy is trained, and a training that is
resumed does not load it again.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from sppo.config.identity import sha256_of
from sppo.config.run import RunConfig
from sppo.models.fetch import Policy, fetch_policy, policy_digest
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.policy import cast
from sppo.store import keys, tables
from sppo.store.base import Store
from sppo.store.lineage import Lineage
from sppo.store.once import run_once
from sppo.training.audit import token_logprobs
from sppo.training.update import Pair, group_of, reference_of
from sppo.training.workers.parallel import Workers

Load = Callable[[Policy], ResponseLogprobs]
"""A policy on this worker's device, or divided among all."""


def base_logprobs(
    config: RunConfig, store: Store, iteration: int, pairs: Sequence[Pair], group: Workers, load: Load
) -> list[list[float]]:
    """log mu of each pair's responses, in the order of `group_of`; what is committed is not computed again.

    Args:
        config: the run's resolved configuration.
        store: the run's.
        iteration: t, above 1: in the first, mu is pi_t.
        pairs: as they are trained on.
        group: the workers, all of which must ask.
        load: of the base.
    """
    key = Lineage(config, store).base_logprobs_key(iteration)

    def work(output: Path) -> Mapping[str, float]:
        group.say(f"computing the base's log-probabilities of {len(pairs)} pairs")
        rows = _rows(pairs, _score(config, pairs, group, load))
        if group.first:
            tables.write(output / keys.BASE_FILE, tables.BASE_LOGPROBS, rows)
        return {}

    if group.first:
        responses = [[pair["prompt_id"], group_of(pair).prompt, group_of(pair).responses] for pair in pairs]
        run_once(store, key, {"base": policy_digest(config.base_model), "responses": sha256_of(responses)}, work)
    elif store.manifest(key) is None:
        with store.scratch() as folder:
            work(folder)
    group.gather(None)  # the first commits after the others are done: on another node they would find nothing yet
    with group.first_of_node_goes_ahead():
        folder = store.fetch(key)
    return [row["logprobs"] for row in tables.read(folder / keys.BASE_FILE, tables.BASE_LOGPROBS)]


def compare_with_base(pairs: Sequence[Pair], logprobs: Sequence[Sequence[float]]) -> None:
    """Note at each pair how much more probable its responses are under pi_t than under the base.

    Args:
        pairs: with the reference's log-probabilities, audited; each gets `over_base`, in nats.
        logprobs: as `base_logprobs` gives them.
    """
    for pair, of_base in zip(pairs, logprobs, strict=True):
        reference = map(math.fsum, reference_of(pair))
        pair["over_base"] = [own - base for own, base in zip(reference, of_base, strict=True)]


def _score(config: RunConfig, pairs: Sequence[Pair], group: Workers, load: Load) -> list[list[float]]:
    with group.first_of_node_goes_ahead():
        base = fetch_policy(config.base_model)
    scorer = load(base)
    if group.size == 1:
        cast(scorer.parameters(), getattr(torch, config.train.dtype))
    tokens = token_logprobs(scorer, pairs, group, config.train.micro_tokens)
    del scorer
    gc.collect()
    return [[math.fsum(own) for own in of_pair] for of_pair in tokens]


def _rows(pairs: Sequence[Pair], logprobs: Sequence[Sequence[float]]) -> list[dict[str, object]]:
    return [{"prompt_id": pair["prompt_id"], "logprobs": own} for pair, own in zip(pairs, logprobs, strict=True)]
