"""Batches of sequences of like length, for the models that read comparisons and responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def batches(lengths: Sequence[int], batch_tokens: int, padding: float = 1.0) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, longest first.

    Args:
        lengths: tokens of each row.
        batch_tokens: most tokens of a batch, padding included; a longer row is a batch of its own.
        padding: largest share of a row in its batch that may be padding.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest = lengths[batch[0]] if batch else 0
        if batch and ((len(batch) + 1) * longest > batch_tokens or lengths[row] < (1 - padding) * longest):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
