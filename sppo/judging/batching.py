"""Batches of sequences of like length, for the models that read comparisons and responses, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ON_CPU = 2048
"""Tokens of a pass: with 8192, whose states no cache holds, the embedded judge takes a third longer."""
ON_GPU = 32768
"""Tokens of a pass, where memory allows: more do not make an H200 faster."""
FEWEST = 512


def tokens_of_a_pass(asked: int, model: torch.nn.Module, of_a_token: int, device: torch.device) -> int:
    """Tokens of one forward pass.

    It depends on the kind of device, not on what else is on it, so that a retry batches, and rounds, alike.

    Args:
        asked: `judge.batch_tokens`; 0: by the device's memory.
        model: whose weights take their part of it.
        of_a_token: bytes that a token needs in a pass; see `bytes_of_a_token`.
        device: where it computes.
    """
    if asked or device.type == "cpu":
        return asked or ON_CPU
    import torch

    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return tokens_that_fit(torch.cuda.get_device_properties(device).total_memory - weights, of_a_token)


def tokens_that_fit(memory: int, of_a_token: int) -> int:
    """The power of two of tokens that half of some bytes hold, from `FEWEST` to `ON_GPU`; kernels use the rest."""
    fitting = max(memory, 0) // 2 // of_a_token
    return min(max(1 << max(fitting.bit_length() - 1, 0), FEWEST), ON_GPU)


def bytes_of_a_token(config: Any, element: int, scored: int = 0) -> int:
    """Bytes that a token needs while a layer is computed; an estimate from above.

    Args:
        config: the model's configuration in transformers.
        element: bytes of a number.
        scored: tokens of the longest sequence, where the scores of all its tokens are held at once; 0 where a fused
            kernel makes them bit by bit.
    """
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    states: int = 8 * width + 2 * inner + 6 * config.num_attention_heads * scored
    return element * states


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
