"""Sampling engines: one interface over the libraries that turn prompts into responses."""

from __future__ import annotations

from pathlib import Path

from sppo.engines.base import Engine, Response, Sampling
from sppo.settings import GenerateConfig

__all__ = ["Engine", "Response", "Sampling", "load_engine"]


def load_engine(folder: Path, config: GenerateConfig, context: int) -> Engine:
    """Load a model into the engine that the configuration names.

    Args:
        folder: the model's folder.
        config: engine, dtype and memory share.
        context: tokens of the longest prompt and response together.
    """
    if config.engine == "vllm":
        from sppo.engines.vllm_engine import VllmEngine

        return VllmEngine(folder, config, context)
    from sppo.engines.transformers_engine import TransformersEngine

    return TransformersEngine(folder, config)
