"""The section `generate`: how pi_t is sampled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sppo.config.sections.section import Section


class GenerateConfig(Section):
    """How the policy answers (paper, section 5.1: temperature 1, top-p 1; the released code samples at 0.7 and 0.9)."""

    engine: Literal["vllm", "transformers"] = Field("vllm", description="Which library samples.")
    responses: int = Field(5, ge=2, description="K, the responses to each prompt.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature; 1 samples from the policy itself.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass; 1 samples from the policy itself.")
    max_tokens: int = Field(1024, ge=1, description="Longest response, in tokens.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Arithmetic of the sampler.")
    chunk_size: int = Field(
        64, ge=1, description="Prompts that are seeded, generated and committed together; shards hold whole chunks."
    )
    memory_fraction: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory that vLLM may take.")
