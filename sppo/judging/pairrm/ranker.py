"""PairRM (Jiang et al., arXiv 2306.02561) without its package: the same weights and logits, at a fraction of the cost.

    [CLS] <|source|> prompt [SEP]  [CLS] <|candidate1|> a [SEP]  [CLS] <|candidate2|> b [SEP]

The logit is head(source, candidate1) - head(source, candidate2), on the last states of the three markers. A text is
tokenized once, the room of a response depends on its prompt alone (as in llm-blender at a batch size of 1), and
sequences of nearly one length make a batch, whatever they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import DebertaV2Model

from sppo.judging.batching import batches, bytes_of_a_token, tokens_of_a_pass
from sppo.judging.pairrm.deberta import Encoder
from sppo.judging.pairrm.files import (
    CANDIDATE,
    FIRST,
    SECOND,
    SOURCE,
    Checkpoint,
    load_weights,
    read_checkpoint,
)
from sppo.judging.preference_model import Comparison
from sppo.models.fetch import model_name
from sppo.models.policy import device_for

PADDING = 0.04
"""Largest share of padding in a sequence: batches of sequences of nearly one length."""


class PairRM:
    """PairRM's weights, ready to judge; implements `PreferenceModel`."""

    def __init__(self, folder: Path, uri: str, *, batch_tokens: int = 0, dtype: str = "float32") -> None:
        """Load a PairRM folder, in either layout.

        Args:
            folder: the local folder.
            uri: where it comes from, for `name`.
            batch_tokens: tokens of one forward pass, padding included; a longer sequence is one alone. 0: by the
                device's memory.
            dtype: arithmetic of the encoder, "float32" or "bfloat16"; the head is always float32.

        Raises:
            ConfigError: if the folder is not a whole PairRM model.
        """
        self.name = model_name(uri, folder)
        self.device = device_for()
        self.layout = _Layout(read_checkpoint(folder, uri))
        self.encoder, self.head = _load(self.layout.checkpoint, folder, uri)
        self.encoder.to(self.device, getattr(torch, dtype))
        self.head.to(self.device)
        checkpoint = self.layout.checkpoint
        longest = checkpoint.source_length + 2 * checkpoint.candidate_length
        needed = bytes_of_a_token(checkpoint.backbone, getattr(torch, dtype).itemsize, longest)
        self.batch_tokens = tokens_of_a_pass(batch_tokens, self.encoder, needed, self.device)
        self._tokens = self._forwarded = 0

    @torch.inference_mode()
    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """See `PreferenceModel.compare`."""
        sequences = self.layout.sequences(comparisons)
        logits = np.zeros(len(sequences), np.float32)
        for rows in batches([len(sequence.ids) for sequence in sequences], self.batch_tokens, PADDING):
            logits[rows] = self._forward([sequences[row] for row in rows])
        return logits

    def figures(self) -> dict[str, float]:
        """Tokens of all sequences, and tokens that went through the encoder, padding included."""
        return {"tokens": float(self._tokens), "forwarded_tokens": float(self._forwarded)}

    def save(self, folder: Path) -> None:
        """See `PreferenceModel.save`."""

    def _forward(self, sequences: Sequence[_Sequence]) -> np.ndarray:
        lengths = torch.tensor([len(sequence.ids) for sequence in sequences])
        # A GPU's kernels are several times slower where a row of scores does not begin at a multiple of 16 bytes.
        unit = 1 if self.device.type == "cpu" else 8
        length = -(-int(lengths.max()) // unit) * unit
        ids = torch.zeros(len(sequences), length, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        hidden = (torch.arange(length) >= lengths[:, None]).to(self.device) if lengths.min() < length else None
        places = torch.tensor([sequence.markers for sequence in sequences]).to(self.device)
        source, first, second = self.encoder(ids.to(self.device), places, hidden).float().unbind(1)
        better, worse = (self.head(torch.cat((source, response), dim=-1)) for response in (first, second))
        self._tokens += int(lengths.sum())
        self._forwarded += ids.numel()
        return (better - worse).mean(dim=-1).cpu().numpy()


class _Sequence(NamedTuple):
    """A comparison in tokens."""

    ids: list[int]
    markers: tuple[int, int, int]
    """Where the markers of prompt, first and second response are."""


class _Layout:
    """Lays out comparisons in tokens."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        vocabulary = checkpoint.tokenizer.get_vocab()
        self.first, self.second = vocabulary[FIRST], vocabulary[SECOND]

    def sequences(self, comparisons: Sequence[Comparison]) -> list[_Sequence]:
        """The comparisons in tokens; every text is tokenized once, without its marker's number."""
        sources = self._tokenize(SOURCE, {each.prompt for each in comparisons})
        responses = self._tokenize(CANDIDATE, {text for _, *both in comparisons for text in both})
        return [
            self._sequence(sources[each.prompt], responses[each.first], responses[each.second]) for each in comparisons
        ]

    def _tokenize(self, marker: str, texts: set[str]) -> dict[str, list[int]]:
        """[CLS], the marker, the text's tokens and [SEP], whatever their number."""
        order = sorted(texts)
        marked = [marker + text for text in self.checkpoint.plain(order)]
        ids = self.checkpoint.tokenizer(marked, truncation=False, verbose=False)["input_ids"] if marked else []
        return dict(zip(order, ids, strict=True))

    def _sequence(self, source: list[int], first: list[int], second: list[int]) -> _Sequence:
        source = _cut(source, self.checkpoint.source_length)
        room = self.checkpoint.response_length(len(source))
        first, second = _cut(first, room), _cut(second, room)
        starts = 0, len(source), len(source) + len(first)
        ids = source + first + second
        ids[starts[1] + 1], ids[starts[2] + 1] = self.first, self.second
        return _Sequence(ids, (starts[0] + 1, starts[1] + 1, starts[2] + 1))


def _cut(ids: list[int], length: int) -> list[int]:
    """The beginning of a text, and its [SEP]."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


class _Network(nn.Module):
    """The modules that a checkpoint's tensors are named after; dropout has no tensors and is left out."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        width = checkpoint.backbone.hidden_size
        self.pretrained_model = DebertaV2Model(checkpoint.backbone)
        self.head_layer = nn.Sequential(
            nn.Identity(), nn.Linear(2 * width, width), nn.Tanh(), nn.Identity(), nn.Linear(width, checkpoint.tasks)
        )


def _load(checkpoint: Checkpoint, folder: Path, uri: str) -> tuple[Encoder, nn.Module]:
    with torch.device("meta"):
        network = _Network(checkpoint)
    load_weights(network, folder, uri)
    network.float().eval().requires_grad_(False)
    return Encoder(network.pretrained_model), network.head_layer
