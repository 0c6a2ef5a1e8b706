"""DeBERTa-v3 for inference (He et al., arXiv 2006.03654 and 2111.09543): the modules of transformers, a lean attention.

A score is the sum of content with content, content with distance, and distance with content, over sqrt(3 d). The
distances' keys and queries depend on the weights alone and are made once. For a sequence of L tokens they are laid out
by distance, so that one matrix product gives a token's scores with all distances, and row i of the scores is a window
of row i of that product, which moves by one with every row: a view, where others gather L x L elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

ROWS = 128
"""Tokens whose windows are made together: more would compute distances that no window shows, fewer small products."""
BLOCK = 2**21
"""Scores that a CPU computes together."""


class Attention(nn.Module):
    """Disentangled attention of one layer; shares the layer's projections."""

    distance_keys: torch.Tensor
    distance_queries: torch.Tensor

    def __init__(self, projections: Any, distances: torch.Tensor) -> None:
        """Make the distances' keys and queries.

        Args:
            projections: transformers' DisentangledSelfAttention.
            distances: (2S, H) the normed embeddings of all buckets of distances.
        """
        super().__init__()
        self.query, self.key, self.value = projections.query_proj, projections.key_proj, projections.value_proj
        self.heads: int = projections.num_attention_heads
        self.size: int = projections.attention_head_size
        self.scale: float = (3 * self.size) ** -0.5
        for name, projection in (("distance_keys", self.key), ("distance_queries", self.query)):
            heads = projection(distances).view(-1, self.heads, self.size).permute(1, 2, 0)  # (heads, d, 2S)
            self.register_buffer(name, (heads * self.scale).contiguous(), persistent=False)

    def forward(self, states: torch.Tensor, buckets: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        """Contexts (B, L, H) of all tokens.

        Args:
            states: (B, L, H).
            buckets: (2L - 1,) buckets of the distances L - 1 .. -(L - 1) from a query back to a key.
            hidden: (B, L) True for padding; None where nothing is padded.
        """
        query, key, value = (self._split(project(states)) for project in (self.query, self.key, self.value))
        seen, seeing = self.distance_keys[..., buckets], self.distance_queries[..., buckets.flip(0)]
        batch, length = states.shape[:2]
        contexts = query.new_empty(batch, length, self.heads, self.size)
        for rows, heads in self._blocks(batch, length, states.device):
            bias = windows(key[rows, heads], seeing[heads]).mT.contiguous()
            bias = windows(query[rows, heads], seen[heads], out=bias)
            if hidden is not None:
                bias.masked_fill_(hidden[rows, None, None], -torch.inf)
            contexts[rows, :, heads] = scaled_dot_product_attention(
                query[rows, heads], key[rows, heads], value[rows, heads], attn_mask=bias, scale=self.scale
            ).transpose(1, 2)
        return contexts.flatten(2)

    def at(
        self, states: torch.Tensor, places: torch.Tensor, buckets: torch.Tensor, hidden: torch.Tensor | None
    ) -> torch.Tensor:
        """Contexts (B, Q, H) of the tokens at `places` (B, Q) alone; the rest as in `forward`."""
        length = states.shape[1]
        query = self._split(self.query(states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))))
        key, value = self._split(self.key(states)), self._split(self.value(states))
        back = places[..., None] - torch.arange(length, device=places.device)  # (B, Q, L)
        bucket = buckets[length - 1 - back].unsqueeze(1).expand(-1, self.heads, -1, -1)
        bias = (query @ self.distance_keys).gather(-1, bucket)
        bias += (key @ self.distance_queries).gather(-1, bucket.mT).mT
        if hidden is not None:
            bias.masked_fill_(hidden[:, None, None], -torch.inf)
        context = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.scale)
        return context.transpose(1, 2).flatten(2)

    def _blocks(self, batch: int, length: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
        """Sequences and heads whose scores are computed together: on a CPU, those that its caches hold."""
        fit = BLOCK // length**2 if device.type == "cpu" else batch * self.heads
        heads = min(max(fit, 1), self.heads)
        rows = max(fit // self.heads, 1)
        for row in range(0, batch, rows):
            for head in range(0, self.heads, heads):
                yield slice(row, row + rows), slice(head, head + heads)

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        """(B, L, H) to (B, heads, L, d)."""
        return projected.unflatten(-1, (self.heads, self.size)).transpose(1, 2)


def windows(tokens: torch.Tensor, distances: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Products of token i with the distances whose columns are L - 1 - i .. 2L - 2 - i.

    Args:
        tokens: (B, heads, L, d).
        distances: (heads, d, 2L - 1).
        out: (B, heads, L, L), to which the products are added in place; zeros if None.

    Returns:
        (B, heads, L, L).
    """
    batch, heads, length, _ = tokens.shape
    result = tokens.new_empty(batch, heads, length, length) if out is None else out
    for start in range(0, length, ROWS):
        end = min(start + ROWS, length)
        band = tokens[:, :, start:end] @ distances[..., length - end : 2 * length - 1 - start]
        width = band.shape[-1]
        strides = (*band.stride()[:2], width - 1, 1)
        moving = band.as_strided((batch, heads, end - start, length), strides, end - start - 1)
        if out is None:
            result[:, :, start:end] = moving
        else:
            result[:, :, start:end] += moving
    return result


class Encoder(nn.Module):
    """The layers of a DebertaV2Model of version 3, with its weights; only some tokens' last states are computed."""

    def __init__(self, model: DebertaV2Model) -> None:
        super().__init__()
        encoder = model.encoder
        self.words, self.norm, self.layers = model.embeddings.word_embeddings, model.embeddings.LayerNorm, encoder.layer
        self.buckets, self.farthest = encoder.position_buckets, encoder.max_relative_positions
        self.span = self.buckets if self.buckets > 0 else self.farthest
        with torch.no_grad():
            distances = encoder.get_rel_embedding()[: 2 * self.span]
            self.attentions = nn.ModuleList(Attention(layer.attention.self, distances) for layer in self.layers)

    def forward(self, ids: torch.Tensor, places: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        """The last states of some tokens.

        Args:
            ids: (B, L) token ids.
            places: (B, Q) the tokens wanted of each sequence.
            hidden: (B, L) True for padding; None where nothing is padded.

        Returns:
            (B, Q, H) in the encoder's dtype.
        """
        states = self.norm(self.words(ids))
        buckets = self._buckets(ids.shape[1], ids.device)
        layers: list[tuple[Any, Any]] = list(zip(self.layers, self.attentions, strict=True))
        for layer, attention in layers[:-1]:
            states = _rest_of_layer(layer, attention(states, buckets, hidden), states)
        layer, attention = layers[-1]
        context = attention.at(states, places, buckets, hidden)
        return _rest_of_layer(layer, context, states.gather(1, places[..., None].expand(-1, -1, states.shape[-1])))

    def _buckets(self, length: int, device: torch.device) -> torch.Tensor:
        distances = torch.arange(length - 1, -length, -1, device=device)
        if self.buckets > 0:
            distances = make_log_bucket_position(distances, self.buckets, self.farthest).long()
        return (distances + self.span).clamp(0, 2 * self.span - 1)


def _rest_of_layer(layer: Any, context: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    attended = layer.attention.output(context, states)
    result: torch.Tensor = layer.output(layer.intermediate(attended), attended)
    return result
