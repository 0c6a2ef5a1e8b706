"""PairRM's layout of a comparison on a BERT vocabulary: what is kept of texts that are too long, and where things are.

    [CLS] <source> prompt [SEP] <candidate1> response a [SEP] <candidate2> response b [SEP]

An encoder of single responses has no second candidate.
Layout: LLM-Blender (Jiang et al., arXiv 2306.02561, section 3). The budget is computed for each comparison alone; in
LLM-Blender's collator it depends on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from sppo.errors import ConfigError

SOURCE, FIRST, SECOND = 1, 2, 3


@dataclass(frozen=True)
class Sequences:
    """A padded batch of B sequences of up to L tokens."""

    ids: np.ndarray
    """(B, L) int64 token ids."""
    positions: np.ndarray
    """(B, L) int64: the second candidate takes the same positions as the first, so that neither order is favoured."""
    segments: np.ndarray
    """(B, L) int64: 0 for [CLS], [SEP] and padding; SOURCE, FIRST or SECOND elsewhere, markers included."""
    lengths: np.ndarray
    """(B,) int64 tokens of each sequence."""


@dataclass(frozen=True)
class Layout:
    """Lays out a prompt and one candidate or two for one vocabulary."""

    tokenizer: Tokenizer
    marker_ids: tuple[int, ...]
    """<source> and a marker for each candidate."""
    cls_id: int
    sep_id: int
    pad_id: int
    max_length: int

    @property
    def overhead(self) -> int:
        """Tokens beside those of the texts: [CLS], and a marker and a [SEP] for each text."""
        return 1 + 2 * len(self.marker_ids)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text alone; the names of special tokens are ordinary characters here."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def length(self, source: int, *candidates: int) -> int:
        """Tokens of a sequence of texts with these numbers of tokens."""
        return self.overhead + sum(self.budget(source, *candidates))

    def budget(self, source: int, *candidates: int) -> tuple[int, ...]:
        """How many tokens each text keeps.

        The source may always keep a quarter of the room. What a short text leaves goes to the others.
        """
        room = self.max_length - self.overhead
        source = min(source, max(room // 4, room - sum(candidates)))
        room -= source
        if len(candidates) == 1:
            return source, min(candidates[0], room)
        first, second = candidates
        half = room // 2
        return source, min(first, max(half, room - second)), min(second, max(room - half, room - first))

    def batch(self, rows: Sequence[tuple[list[int], ...]]) -> Sequences:
        """Lay out rows of token ids: the source and its candidates.

        Long sources keep their end, long candidates their beginning.
        """
        budgets = [self.budget(*map(len, row)) for row in rows]
        lengths = np.array([self.overhead + sum(budget) for budget in budgets], np.int64)
        ids = np.full((len(rows), lengths.max()), self.pad_id, np.int64)
        segments = np.zeros_like(ids)
        positions = np.tile(np.arange(ids.shape[1]), (len(rows), 1))
        for row, ((source, *candidates), (s, *budget)) in enumerate(zip(rows, budgets, strict=True)):
            ids[row, 0] = self.cls_id
            start = 1
            kept = [source[len(source) - s :], *(text[:size] for text, size in zip(candidates, budget, strict=True))]
            for segment, (marker, tokens) in enumerate(zip(self.marker_ids, kept, strict=True), start=SOURCE):
                end = start + 1 + len(tokens)
                ids[row, start] = marker
                ids[row, start + 1 : end] = tokens
                ids[row, end] = self.sep_id
                segments[row, start:end] = segment
                if segment == SECOND:
                    positions[row, start:] -= start - (s + 3)
                start = end + 1
        return Sequences(ids, positions, segments, lengths)


def load_layout(folder: Path, marker_ids: tuple[int, ...], max_length: int) -> Layout:
    """The layout for the vocabulary of an encoder's folder.

    Raises:
        ConfigError: if the folder has no BERT tokenizer.json, or an id is not an unused one.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: no tokenizer.json; the pairwise encoder needs a BERT-type encoder with one")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    cls_id, sep_id, pad_id = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[PAD]"))
    if cls_id is None or sep_id is None or pad_id is None:
        raise ConfigError(f"{path}: the vocabulary lacks [CLS], [SEP] or [PAD]; use a BERT-type encoder")
    for marker in marker_ids:
        if not (tokenizer.id_to_token(marker) or "").startswith("[unused"):
            raise ConfigError(f"marker_ids: id {marker} is not an [unused…] token of {path}")
    return Layout(tokenizer, marker_ids, cls_id, sep_id, pad_id, max_length)
