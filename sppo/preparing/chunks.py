"""Chunks: fixed groups of an iteration's prompts, which a shard takes whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

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
