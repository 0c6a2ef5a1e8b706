"""Generate: the policy pi_t answers every prompt of a shard K times (Algorithm 1, line 3)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sppo.config.run import RunConfig
from sppo.errors import RunFailedError
from sppo.models.fetch import policy_digest
from sppo.preparing.chunks import chunks, shard_chunks
from sppo.progress import heartbeat
from sppo.sampling.engine import Sampling
from sppo.sampling.load import LazyEngine, context_of
from sppo.seeds import derive_seed
from sppo.store import keys, tables
from sppo.store.base import Manifest, file_sha256
from sppo.store.lineage import Lineage
from sppo.store.once import check_made_from, run_once
from sppo.store.opening import open_store


def generate(
    config: RunConfig, iteration: int, shard: int, shards: int, model_uri: str, prompts: Path
) -> list[dict[str, Any]]:
    """Responses of one shard, chunk by chunk; a chunk that an earlier attempt committed is not generated again.

    A chunk is a fixed group of an iteration's prompts with seeds of its own, and a shard is a run of whole chunks, so
    the responses are the same whatever the number of shards.

    Args:
        config: the run's resolved configuration.
        iteration: t, from 1.
        shard: which shard, from 0.
        shards: how many shards share the iteration.
        model_uri: where pi_t is.
        prompts: the iteration's prompts table.

    Returns:
        Rows of `tables.RESPONSES`, in prompt order.
    """
    store = open_store(config.output_uri)
    lineage = Lineage(config, store)
    digest = lineage.generate(iteration)
    inputs = {"stage": digest, "model": policy_digest(model_uri), "prompts": file_sha256(prompts)}
    if iteration > 1:
        before = lineage.evaluation_key(iteration - 1)
        check_made_from(store, before, ("new", "previous", "base"), inputs["model"], model_uri)
    wanted, asked = config.generate, tables.read(prompts, tables.PROMPTS)
    engine = LazyEngine(model_uri, wanted, context_of(asked, wanted.max_tokens), wanted.responses * wanted.chunk_size)
    rows: list[dict[str, Any]] = []
    all_chunks = chunks(asked, wanted.chunk_size)
    mine = shard_chunks(len(all_chunks), shard, shards)
    for count, index in enumerate(mine, start=1):
        key = keys.response_chunk(iteration, digest, index)
        chunk = all_chunks[index]

        def work(output: Path, chunk: list[dict[str, Any]] = chunk) -> Mapping[str, float]:
            return _generate_chunk(config, iteration, engine, chunk, output)

        manifest = run_once(store, key, inputs, work)
        print(f"iteration {iteration}: chunk {count} of {len(mine)}, {_speed(manifest)}", flush=True)
        rows += tables.read(store.fetch(key) / keys.RESPONSES_FILE, tables.RESPONSES)
    return rows


def figures(config: RunConfig, iteration: int, chunk_total: int) -> dict[str, float]:
    """The generation figures of an iteration, summed over its committed chunks."""
    store = open_store(config.output_uri)
    digest = Lineage(config, store).generate(iteration)
    manifests = [store.manifest(keys.response_chunk(iteration, digest, i)) for i in range(chunk_total)]
    totals = {
        name: sum(m.figures[name] for m in manifests if m) for name in ("tokens", "seconds", "responses", "truncated")
    }
    return {
        "generate/seconds": totals["seconds"],
        "generate/tokens_per_second": totals["tokens"] / max(totals["seconds"], 1e-9),
        "generate/truncated_fraction": totals["truncated"] / max(totals["responses"], 1.0),
    }


def _generate_chunk(
    config: RunConfig, iteration: int, engine: LazyEngine, chunk: list[dict[str, Any]], output: Path
) -> dict[str, float]:
    wanted = config.generate
    sampling = Sampling(wanted.responses, wanted.temperature, wanted.top_p, wanted.max_tokens)
    seeds = [derive_seed(config.seed, "generate", iteration, row["prompt_id"]) for row in chunk]
    loaded = engine.load()
    start = time.monotonic()
    with heartbeat(f"sampling {sampling.responses} responses to each of {len(chunk)} prompts"):
        sampled = loaded.sample([row["prompt_ids"] for row in chunk], sampling, seeds)
    seconds = time.monotonic() - start
    for row, responses in zip(chunk, sampled, strict=True):
        if not all(math.isfinite(value) for response in responses for value in response.logprobs):
            raise RunFailedError(
                f"{engine.policy.folder}: a log-probability of a response to prompt {row['prompt_id']} is not finite; "
                "the model's weights are damaged, or too large for generate.dtype"
            )
    rows = [
        {**row, "response_index": index, **vars(response)}
        for row, responses in zip(chunk, sampled, strict=True)
        for index, response in enumerate(responses)
    ]
    tables.write(output / keys.RESPONSES_FILE, tables.RESPONSES, rows)
    return {
        "tokens": float(sum(len(row["token_ids"]) for row in rows)),
        "seconds": seconds,
        "responses": float(len(rows)),
        "truncated": float(sum(row["finish_reason"] == "length" for row in rows)),
    }


def _speed(manifest: Manifest) -> str:
    tokens, seconds = manifest.figures["tokens"], manifest.figures["seconds"]
    return f"{tokens:.0f} tokens at {tokens / seconds:.0f} a second"
