"""Attention over packed rows on a CPU, for sequences that are short enough to hold a head's scores.

One step of autograd for a whole row: the sequences are cut from the row and written back by slices, query heads that
share a key head go through one product, and the scores are worked out again in the backward pass instead of being kept.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from sppo.models.network.packing import Groups

LONGEST = 512
"""Sequences up to this length are attended to here; longer ones by a kernel that never holds the scores."""


def is_short(groups: Groups) -> bool:
    """Whether every sequence of a row, a prompt with one of its responses, is short enough."""
    return all(prompt + max(responses, default=0) <= LONGEST for prompt, responses in groups)


class Span(NamedTuple):
    """Queries of a row that attend together, `own` positions from `start`, after a prompt that lies elsewhere."""

    start: int
    own: int
    prompt_start: int
    prompt: int


def spans(groups: Groups) -> Iterator[Span]:
    """A prompt with its first response lie side by side and are one span; every further response is one of its own."""
    start = 0
    for prompt, responses in groups:
        first, *others = responses or (0,)
        yield Span(start, prompt + first, start, 0)
        place = start + prompt + first
        for own in others:
            yield Span(place, own, start, prompt)
            place += own
        start = place


class ShortAttention(torch.autograd.Function):
    """softmax(scaling q k^T + mask) v of every span of a row.

    Takes q of shape (1, heads, N, d), k and v of (1, key heads, N, d), the row's groups, the scaling of the scores and
    the sliding window; gives (1, N, heads, d).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        groups: Groups,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """See the class."""
        ctx.save_for_backward(query, key, value)
        ctx.settings = groups, scaling, window
        _, heads, length, size = query.shape
        output = query.new_empty(1, length, heads, size)
        for span in spans(groups):
            weights = _weights(_queries(query, key, span), _gather(key, span), span, scaling, window)
            mixed = torch.bmm(weights, _gather(value, span)).view(heads, span.own, size)
            output[0, span.start : span.start + span.own] = mixed.transpose(0, 1)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """See the class."""
        query, key, value = ctx.saved_tensors
        groups, scaling, window = ctx.settings
        output = gradients[0].transpose(1, 2)
        to_query, to_key, to_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        for span in spans(groups):
            queries, keys = _queries(query, key, span), _gather(key, span)
            weights = _weights(queries, keys, span, scaling, window)
            mixed = _queries(output, key, span)
            _scatter(to_value, span, torch.bmm(weights.transpose(1, 2), mixed))
            to_weights = torch.bmm(mixed, _gather(value, span).transpose(1, 2))
            scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype).mul_(scaling)
            place = slice(span.start, span.start + span.own)
            to_query[0, :, place] = torch.bmm(scores, keys).view(-1, span.own, query.shape[-1])
            _scatter(to_key, span, torch.bmm(scores.transpose(1, 2), queries))
        return to_query, to_key, to_value, None, None, None


def _queries(query: torch.Tensor, key: torch.Tensor, span: Span) -> torch.Tensor:
    """(key heads, shared * own, d): the queries of all heads that share a key head, one after the other."""
    return query[0, :, span.start : span.start + span.own].reshape(key.shape[1], -1, query.shape[-1])


def _gather(tensor: torch.Tensor, span: Span) -> torch.Tensor:
    """(key heads, prompt + own, d): what a span's queries look at."""
    own = tensor[0, :, span.start : span.start + span.own]
    if not span.prompt:
        return own
    return torch.cat((tensor[0, :, span.prompt_start : span.prompt_start + span.prompt], own), dim=1)


def _scatter(target: torch.Tensor, span: Span, gradient: torch.Tensor) -> None:
    """The opposite of `_gather`: a prompt's gradient is the sum over the responses that saw it."""
    target[0, :, span.start : span.start + span.own] = gradient[:, span.prompt :]
    if span.prompt:
        target[0, :, span.prompt_start : span.prompt_start + span.prompt] += gradient[:, : span.prompt]


def _weights(queries: torch.Tensor, keys: torch.Tensor, span: Span, scaling: float, window: int | None) -> torch.Tensor:
    """(key heads, shared * own, prompt + own): attention weights."""
    scores = torch.bmm(queries, keys.transpose(1, 2)).view(len(keys), -1, span.own, span.prompt + span.own)
    mask = causal_mask(span.prompt + span.own, window, scores.dtype)[span.prompt :]
    return torch.add(mask, scores, alpha=scaling, out=scores).softmax(dim=-1).flatten(1, 2)


def causal_mask(length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """What to add to the scores: 0 where a position sees another, else minus infinity; shape (length, length)."""
    size = max(LONGEST, 1 << (length - 1).bit_length())
    return _square_mask(size, window, dtype)[:length, :length]


@functools.lru_cache(maxsize=8)
def _square_mask(size: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    distance = torch.arange(size)[:, None] - torch.arange(size)
    hidden = (distance < 0) | (distance >= (size if window is None else window))
    return torch.zeros(size, size, dtype=dtype).masked_fill(hidden, float("-inf"))
