"""The size of vLLM's cache on a CPU, and its words for too little memory, which are looked up in its source."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from sppo.config.run import resolve
from sppo.errors import ConfigError, InfrastructureError
from sppo.sampling import vllm_memory
from sppo.sampling.vllm_memory import BLOCK, MOST, SEQUENCES, cache_bytes, memory_reported

DEFAULT_MODEL = 2 * 30 * 3 * 64 * 2
"""Bytes of a token of SmolLM2-135M in bfloat16: keys and values, layers, heads, their size, bytes."""


def source(path: str) -> str:
    (folder,) = importlib.util.find_spec("vllm").submodule_search_locations
    # Python joins adjacent strings.
    return re.sub(r'"\s*\n\s*f?"', "", (Path(folder) / path).read_text())


def test_the_cache_holds_what_is_sampled_at_once_and_no_more():
    assert cache_bytes(1000, 256, 10) == (10 * 8 + 1) * 32 * 1000
    assert cache_bytes(1000, 257, 10) == (10 * 9 + 1) * 32 * 1000


def test_more_sequences_than_run_at_once_take_no_more():
    assert cache_bytes(100, 128, 10_000) == cache_bytes(100, 128, SEQUENCES)


def test_it_is_never_more_than_before_unless_one_sequence_needs_it():
    assert cache_bytes(DEFAULT_MODEL, 2048, SEQUENCES) == MOST
    assert cache_bytes(10**6, 4096, SEQUENCES) == (128 + 1) * 32 * 10**6 > MOST


def test_generating_with_the_default_model_takes_less_and_holds_every_response():
    config = resolve({})
    sequences = config.generate.responses * config.generate.chunk_size
    context = config.prepare.max_prompt_tokens + config.generate.max_tokens
    asked = cache_bytes(DEFAULT_MODEL, context, sequences)
    assert sequences * context * DEFAULT_MODEL < asked < 0.7 * MOST


def test_vllm_still_runs_as_many_sequences_and_has_such_blocks():
    assert f"UsageContext.LLM_CLASS: {SEQUENCES} * world_size" in source("engine/arg_utils.py")
    assert f"return [MultipleOf({BLOCK})]" in source("v1/attention/backends/cpu_attn.py")


@pytest.mark.parametrize("words", [*vllm_memory._BUSY, *vllm_memory._SMALL])
def test_these_are_vllms_words(words):
    files = ("v1/worker/cpu_worker.py", "v1/worker/utils.py", "v1/core/kv_cache_utils.py")
    assert any(words in source(path) for path in files)


@pytest.mark.parametrize(
    ("error", "on_cpu", "kind", "mend"),
    [
        (ValueError("it is less than requested\nmemory for kv"), True, InfrastructureError, "stages.<stage>.memory"),
        (ValueError("No available memory for the cache blocks."), True, ConfigError, "stages.<stage>.memory"),
        (
            ValueError("it is less than desired GPU memory"),
            False,
            InfrastructureError,
            "lower generate.memory_fraction",
        ),
        (ValueError("To serve at least one request"), False, ConfigError, "raise generate.memory_fraction"),
        (torch.OutOfMemoryError("CUDA out of memory."), False, ConfigError, "take a larger GPU"),
    ],
)
def test_too_little_memory_says_what_to_change(error, on_cpu, kind, mend):
    with pytest.raises(kind, match=re.escape(mend)) as caught, memory_reported(Path("model"), on_cpu):
        raise error
    assert "\n" not in str(caught.value)


def test_other_errors_of_vllm_are_left_alone():
    with pytest.raises(ValueError, match="another"), memory_reported(Path("model"), True):
        raise ValueError("another")
