"""Judgements on disk: a retried shard asks for none of them again, and an evaluation reuses what was judged before.

Records of a fixed size (half a SHA-256 of the comparison, and its logit) are appended to a file of this process's own,
and all files of a judge are read at the start. So nothing is locked, on network volumes too; a record that a kill cut
off is left out, and one that is there twice does no harm.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sppo.judging.preference_model import Comparison

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("logit", "<f4")])


class JudgementCache:
    """The judgements of one judge that are known already."""

    def __init__(self, folder: Path) -> None:
        """Read what is known.

        Args:
            folder: of this judge alone: another judge, or other settings that change logits, needs another folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{uuid.uuid4().hex}.bin"
        self._known: dict[tuple[int, int], float] = {}
        for path in sorted(folder.glob("*.bin")):
            data = path.read_bytes()
            records = np.frombuffer(data[: len(data) - len(data) % RECORD.itemsize], RECORD)
            self._known |= {(high, low): logit for high, low, logit in records.tolist()}

    def get(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """The logit of each comparison, NaN where it is unknown; float32, shape (N,)."""
        return np.array([self._known.get(_key(each), np.nan) for each in comparisons], np.float32)

    def put(self, comparisons: Sequence[Comparison], logits: np.ndarray) -> None:
        """Keep the logits of comparisons; those that are not finite are left out, so that a retry asks again."""
        records = np.array(
            [
                (*_key(each), logit)
                for each, logit in zip(comparisons, logits.tolist(), strict=True)
                if np.isfinite(logit)
            ],
            RECORD,
        )
        with self.path.open("ab") as file:
            file.write(records.tobytes())
        self._known |= {(high, low): logit for high, low, logit in records.tolist()}


def _key(comparison: Comparison) -> tuple[int, int]:
    hashed = hashlib.sha256()
    for text in comparison:
        data = text.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "little") + data)
    digest = hashed.digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
