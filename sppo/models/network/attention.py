"""Attention over a packed row (`sppo.models.network.packing`), in the place of a transformers model's own.

transformers calls the attention that a model's configuration names, and hands on what its forward pass was given:
https://huggingface.co/docs/transformers/attention_interface. Ours is given the row. On a CPU it takes one response at a
time, each with its prompt; on a GPU the whole row goes through FlexAttention, whose block mask skips blocks that see
nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from sppo.errors import ConfigError
from sppo.models.network.packing import Groups, Row
from sppo.models.network.short_attention import ShortAttention, causal_mask, is_short

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sppo_packed"
_KNOWN = {"position_ids", "use_cache", "output_attentions", "cache_position", "is_causal"}
"""What models hand to every attention and that changes nothing here."""


def register() -> None:
    """Make the attention known to transformers by its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


@contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """Have a model attend to packed rows for a while."""
    register()
    with _attending(model, NAME):
        yield


@contextmanager
def own(model: PreTrainedModel) -> Iterator[None]:
    """Have a model attend as transformers spells it out for a while: the other kernels leave out soft caps."""
    with _attending(model, "eager"):
        yield


@contextmanager
def _attending(model: PreTrainedModel, name: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def told(row: Row, config: Any) -> dict[str, Any]:
    """What a model's forward pass hands on to its attention: the row, or on a GPU the masks that are made of it."""
    if not row.ids.is_cuda:
        return {"row": row}
    windows = {None, getattr(config, "sliding_window", None)}
    return {"masks": {window: block_mask(row.groups, window, row.ids.device) for window in windows}}


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    row: Row | None = None,
    masks: Mapping[int | None, Any] | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of every token to what it may see.

    Args:
        module: the model's attention layer.
        query: shape (1, heads, N, dimension).
        key: shape (1, key heads, N, dimension).
        value: the same.
        attention_mask: none is made for this attention.
        scaling: of the scores; 1 / sqrt(dimension) if None.
        dropout: probability of dropping an attention weight.
        sliding_window: how many positions a token sees, itself included.
        softcap: bound of the scores, by a tanh (Gemma 2).
        row: what the tokens are; a single sequence if neither this nor `masks` is given.
        masks: in the place of `row`, by sliding window: FlexAttention's, which is what a GPU uses.
        others: what this architecture adds.

    Returns:
        Shape (1, N, heads, dimension), and no attention weights.

    Raises:
        ConfigError: if the architecture asks its attention for something that is not known here.
    """
    unknown = sorted(name for name, given in others.items() if given is not None and name not in _KNOWN)
    if unknown:
        raise ConfigError(
            f"base_model: the attention of {type(module).__name__} uses {', '.join(unknown)}, unknown here"
        )
    groups = ((query.shape[2], ()),) if row is None else row.groups
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.is_cuda or masks is not None:
        mask = block_mask(groups, sliding_window, query.device) if masks is None else masks[sliding_window]
        output = _flex(query, key, value, mask, scaling, softcap)
    elif softcap is None and not dropout and is_short(groups):
        return ShortAttention.apply(query, key, value, groups, scaling, sliding_window), None
    else:
        output = _by_response(query, key, value, groups, scaling, dropout, sliding_window, softcap)
    return output.transpose(1, 2).contiguous(), None


def _by_response(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: Groups,
    scaling: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    # Split once: the gradient of a split is one concatenation, that of a slice a whole row of zeros.
    sizes = [size for prompt, responses in groups for size in (prompt, *responses)]
    parts = zip(*(tensor.split(sizes, dim=2) for tensor in (query, key, value)), strict=True)
    outputs: list[torch.Tensor] = []
    for prompt, responses in groups:
        own = next(parts)
        for index in range(max(1, len(responses))):
            # Every response brings its prompt along: only attention computes it again, and keeps it once.
            whole = [torch.cat(pair, dim=2) for pair in zip(own, next(parts), strict=True)] if responses else own
            output = _causal(whole[0], whole[1], whole[2], scaling, dropout, window, softcap)
            outputs.append(output if index == 0 else output[:, :, prompt:])
    return torch.cat(outputs, dim=2)


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """One sequence: by the kernel that needs no memory for the scores, where it can do what is asked."""
    length = query.shape[2]
    if softcap is None and (window is None or length <= window):
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, dropout_p=dropout
        )
    scores = query[0] @ key[0].transpose(1, 2) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + causal_mask(length, window, query.dtype)
    return (functional.dropout(scores.softmax(dim=-1), dropout) @ value[0])[None]


def _flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    # A tensor: torch.compile lets this number vary, and FlexAttention takes no varying number.
    bound: Any = None if softcap is None else query.new_full((), softcap, dtype=torch.float32)

    def cap(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return torch.tanh(score / bound) * bound

    attend = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
    output: torch.Tensor = attend(
        query,
        key,
        value,
        score_mod=None if softcap is None else cap,
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output


@functools.cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@functools.lru_cache(maxsize=8)
def block_mask(groups: Groups, window: int | None, device: torch.device) -> Any:
    """FlexAttention's mask of a row; the layers of a model share it."""
    from torch.nn.attention.flex_attention import create_block_mask

    group, segment, position = _places(groups).to(device)

    def sees(_batch: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        same = (group[query] == group[key]) & ((segment[key] == 0) | (segment[key] == segment[query]))
        seen = same & (query >= key)
        return seen if window is None else seen & (position[query] - position[key] < window)

    return create_block_mask(sees, None, None, len(group), len(group), device=device)


def _places(groups: Groups) -> torch.Tensor:
    """Group, segment (0 is the prompt) and position of every token of a row, shape (3, N)."""
    segments = [
        (index, number, prompt if number else 0, length)
        for index, (prompt, responses) in enumerate(groups)
        for number, length in enumerate((prompt, *responses))
    ]
    group, segment, start, lengths = torch.tensor(segments, dtype=torch.int32).T
    begin = lengths.cumsum(0) - lengths
    columns = torch.stack([group, segment, start - begin]).repeat_interleave(lengths, dim=1)
    columns[2] += torch.arange(columns.shape[1])
    return columns.int()
