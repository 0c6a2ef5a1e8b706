"""Chunks: fixed groups of an iteration's prompts, which a shard takes whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TypeVar

import pyarrow.parquet as pq

from sppo.config.run import RunConfig
from sppo.store import keys
from sppo.store.lineage import Lineage

T = TypeVar("T")


def chunk_count(rows: int, size: int) -> int:
    """How many groups `chunks` makes of so many rows."""
    return -(-rows // size)


def chunks(rows: Sequence[T], size: int) -> list[list[T]]:
    """Consecutive groups of `size` rows; the last may be smaller."""
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


def shard_chunks(total: int, shard: int, shards: int) -> range:
    """The chunks of one shard: consecutive, and as many as any other shard's, give or take one."""
    return range(total * shard // shards, total * (shard + 1) // shards)


def chunk_counts(config: RunConfig, lineage: Lineage) -> list[int]:
    """How many chunks the prompts of each iteration are; 0 each where prepare has not committed them yet."""
    store, key = lineage.store, lineage.prepared_key
    if store.manifest(key) is None:
        return [0] * config.iterations
    committed = (store.read_committed(key, keys.prompts_file(t)) for t in range(1, config.iterations + 1))
    rows = (pq.read_metadata(io.BytesIO(table)).num_rows for table in committed)
    return [chunk_count(each, config.generate.chunk_size) for each in rows]


def shard_count(config: RunConfig, chunks: Sequence[int]) -> int:
    """The shards of every iteration: as many as asked for, but in none of them one without a chunk of prompts.

    Args:
        config: the run's configuration.
        chunks: as `chunk_counts` gives them.
    """
    return min(config.shards, *chunks)
