"""The section `generate`: how pi_t is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from sppo.config.sections.arithmetic import AUTO, Arithmetic
from sppo.config.sections.section import Free, Readers, Section


class GenerateConfig(Section):
    """How the policy answers (paper, section 5.1: temperature 1, top-p 1; the released code samples at 0.7 and 0.9)."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "engine": ("generate", "answers", "instructions", "bench"),
        "responses": ("generate",),
        "temperature": ("generate",),
        "top_p": ("generate",),
        "max_tokens": ("generate",),
        "dtype": ("generate", "train", "answers", "instructions", "bench"),
        "chunk_size": ("generate", "rank"),
        "memory_fraction": Free("how many responses are sampled at once, each with its own seed"),
    }

    engine: Literal["vllm", "transformers"] = Field("vllm", description="Which library samples.")
    responses: int = Field(5, ge=2, description="K, the responses to each prompt.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature; 1 samples from the policy itself.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass; 1 samples from the policy itself.")
    max_tokens: int = Field(1024, ge=1, description="Longest response, in tokens.")
    dtype: Arithmetic = Field("bfloat16", description=f"Arithmetic of the sampler. {AUTO}")
    chunk_size: int = Field(
        64, ge=1, description="Prompts that are seeded, generated and committed together; shards hold whole chunks."
    )
    memory_fraction: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory that vLLM may take.")
