"""The section `judge`: how a preference model computes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sppo.config.sections.section import Section


class LlmJudgeConfig(Section):
    """A language model as the judge (`openai:`, `vllm:` and `transformers:`)."""

    max_characters: int = Field(
        16000, ge=100, description="Longer prompts and responses are shown to a language model cut to this length."
    )
    context: int = Field(
        8192, ge=256, description="Longest comparison, in tokens, that a language model in this process is shown."
    )
    memory_fraction: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory that vLLM may take to judge.")
    top_logprobs: int = Field(
        20, ge=2, le=20, description="Most likely first tokens that an endpoint is asked for, with log-probabilities."
    )
    concurrency: int = Field(8, ge=1, description="Requests that an endpoint answers at one time.")
    requests_per_second: float = Field(10.0, gt=0, description="Rate at which requests are sent to an endpoint.")
    timeout: float = Field(60.0, gt=0, description="Seconds that an endpoint may stay silent.")
    retries: int = Field(
        5, ge=0, description="Repetitions of a request that an endpoint refused for now (429, 5xx) or dropped."
    )
    max_requests: int = Field(
        10_000, ge=1, description="Requests that one task may send to an endpoint, repetitions included."
    )
    prompt_price: float = Field(0.0, ge=0, description="What an endpoint charges for a million tokens that it reads.")
    completion_price: float = Field(0.0, ge=0, description="The same for a million tokens that it writes.")
    max_cost: float = Field(
        0.0, ge=0, description="What one task may spend at an endpoint, in the currency of the prices; 0 is no limit."
    )

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> LlmJudgeConfig:
        if self.max_cost and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost needs prompt_price and completion_price")
        return self


class MixtureMember(Section):
    """One preference model of a mixture."""

    model: str = Field(min_length=1, description="Its URI.")
    weight: float = Field(1.0, gt=0, description="Its share, relative to the other members' weights.")
    temperature: float = Field(1.0, gt=0, description="Its logits are divided by this before they are weighed.")


class JudgeConfig(Section):
    """How the preference model computes, wherever it is asked: when ranking and when evaluating."""

    FREE: ClassVar[dict[str, Any]] = {
        "cache": True,
        "llm": {
            "memory_fraction",
            "concurrency",
            "requests_per_second",
            "timeout",
            "retries",
            "max_requests",
            "prompt_price",
            "completion_price",
            "max_cost",
        },
    }
    """Values that change no logit."""

    batch_tokens: int = Field(8192, ge=512, description="Tokens of a forward pass of the preference model.")
    dtype: Literal["bfloat16", "float32"] = Field("float32", description="Arithmetic of the preference model.")
    pairrm: Literal["fast", "llm-blender"] = Field(
        "fast",
        description="What runs PairRM: the scorer of this system, or the package, a prompt at a time.",
    )
    cache: bool = Field(True, description="Keep every judgement on disk, so that a retry asks for none again.")
    llm: LlmJudgeConfig = LlmJudgeConfig()
    mixture: tuple[MixtureMember, ...] = Field(
        (), description="Members of the preference model `mixture`: [{model: URI, weight: 1, temperature: 1}, …]."
    )
