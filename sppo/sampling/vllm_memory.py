"""What vLLM's cache of keys and values takes on a CPU, and what it says where there is too little memory for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sppo.errors import ConfigError, InfrastructureError, one_line

SEQUENCES = 256
"""That vLLM runs at once on a CPU (`EngineArgs.get_batch_defaults` of its vllm/engine/arg_utils.py, 0.32)."""
MOST = 2 * 2**30
"""Bytes of a cache that holds more than one sequence."""
BLOCK = 32
"""Tokens of a block, of which one is a placeholder: the fewest that vllm/v1/attention/backends/cpu_attn.py takes.

Responses share the whole blocks of their prompt. Of vLLM's own 128 tokens, few prompts fill one.
"""
_BUSY = ("is less than requested memory for kv", "is less than desired ")
"""Of vllm/v1/worker/cpu_worker.py and vllm/v1/worker/utils.py: others hold the memory, at the moment at least."""
_SMALL = ("No available memory for the cache blocks", "To serve at least one request")
"""Of vllm/v1/core/kv_cache_utils.py: what the weights leave is too little."""


def cache_bytes(token_bytes: int, context: int, sequences: int = SEQUENCES) -> int:
    """Bytes of a cache for the sequences that run at once: `MOST` at most, but never too few for one of them.

    Args:
        token_bytes: of the keys and values of a token, in all layers.
        context: tokens of the longest sequence.
        sequences: that are sampled at once, as far as vLLM runs them so.
    """

    def room(count: int) -> int:
        return (count * math.ceil(context / BLOCK) + 1) * BLOCK * token_bytes

    return max(room(1), min(room(min(sequences, SEQUENCES)), MOST))


def cache_options(folder: Path, dtype: str, context: int, sequences: int | None) -> dict[str, int]:
    """What `vllm.LLM` must be told of its cache on a CPU: to take no more memory than it needs, and to share prompts.

    `VLLM_CPU_KVCACHE_SPACE` overrules the memory.

    Args:
        folder: of the model.
        dtype: of the keys and values.
        context: tokens of the longest sequence.
        sequences: that are sampled at once; None if unknown.
    """
    import torch
    from vllm.config import ModelConfig, ParallelConfig

    model, one = ModelConfig(model=str(folder), dtype=dtype, max_model_len=context), ParallelConfig()
    if model.is_hybrid or model.is_attention_free:  # layers that keep a state have pages of another size
        return {"kv_cache_memory_bytes": MOST}
    elements = 2 * model.get_num_layers(one) * model.get_num_kv_heads(one) * model.get_head_size()
    token_bytes = elements * getattr(torch, dtype).itemsize
    blocks = {} if model.use_mla else {"block_size": BLOCK}  # the kernels of latent attention have their own
    return {"kv_cache_memory_bytes": cache_bytes(token_bytes, context, sequences or SEQUENCES), **blocks}


@contextmanager
def memory_reported(folder: Path, on_cpu: bool) -> Iterator[None]:
    """Turn vLLM's words for too little memory into one line that says what to change.

    Args:
        folder: of the model.
        on_cpu: whether it is the machine's or the pod's memory, and not a GPU's.

    Raises:
        ConfigError: if the model and one sequence do not fit.
        InfrastructureError: if something else holds the memory.
    """
    import torch

    fraction = "generate.memory_fraction (of a judge, judge.llm.memory_fraction)"
    length = "generate.max_tokens (of a judge, judge.llm.context)"
    try:
        yield
    except (ValueError, torch.OutOfMemoryError) as error:
        said = one_line(error)
        busy = any(words in said for words in _BUSY)
        small = any(words in said for words in _SMALL)
        if not (busy or small or isinstance(error, torch.OutOfMemoryError)):
            raise
        if on_cpu:
            mend = f"raise stages.<stage>.memory of the profile, or lower {length}"
        elif busy:
            mend = f"free the GPU, or lower {fraction}"
        else:
            mend = f"raise {fraction}, lower {length}, or take a larger GPU"
        kind = InfrastructureError if busy else ConfigError
        raise kind(f"{folder}: too little memory for vLLM ({said}); {mend}") from error
