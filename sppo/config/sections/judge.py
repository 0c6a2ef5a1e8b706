"""The section `judge`: how a preference model computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sppo.config.sections.arithmetic import AUTO, Arithmetic
from sppo.config.sections.section import Free, FreeIf, Readers, Section, Stage

JUDGED: tuple[Stage, ...] = ("rank", "evaluate")
"""The stages that ask a judge."""
_ALONE = "judge.dtype is float32: a logit does not depend on what is judged beside it"
_COURTESY = Free("how a server is asked, not what")


class LlmJudgeConfig(Section):
    """A language model as the judge (`openai:`, `vllm:` and `transformers:`)."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "max_characters": JUDGED,
        "context": JUDGED,
        "memory_fraction": Free("how many comparisons are judged at once"),
        "top_logprobs": JUDGED,
        "concurrency": _COURTESY,
        "requests_per_second": _COURTESY,
        "timeout": _COURTESY,
        "retries": _COURTESY,
        "max_requests": Free("a limit that ends a stage, which then goes on from what is kept"),
        "prompt_price": Free("a price"),
        "completion_price": Free("a price"),
        "max_cost": Free("a limit that ends a stage, which then goes on from what is kept"),
    }

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

    READ_BY: ClassVar[Mapping[str, Readers]] = {"model": JUDGED, "weight": JUDGED, "temperature": JUDGED}

    model: str = Field(min_length=1, description="Its URI.")
    weight: float = Field(1.0, gt=0, description="Its share, relative to the other members' weights.")
    temperature: float = Field(1.0, gt=0, description="Its logits are divided by this before they are weighed.")


class JudgeConfig(Section):
    """How the preference model computes, wherever it is asked: when ranking and when evaluating."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "batch_tokens": FreeIf(lambda judge: judge.dtype == "float32", _ALONE, JUDGED),
        "dtype": JUDGED,
        "pairrm": JUDGED,
        "cache": Free("where a judgement is looked up before it is asked for"),
        "mixture": JUDGED,
    }

    batch_tokens: int = Field(
        0, ge=0, description="Tokens of a forward pass of the preference model, 512 or more; 0: by the device's memory."
    )
    dtype: Arithmetic = Field("float32", description=f"Arithmetic of the preference model. {AUTO}")
    pairrm: Literal["fast", "llm-blender"] = Field(
        "fast",
        description="What runs PairRM: the scorer of this system, or the package, a prompt at a time.",
    )
    cache: bool = Field(True, description="Keep every judgement on disk, so that a retry asks for none of them again.")
    llm: LlmJudgeConfig = LlmJudgeConfig()
    mixture: tuple[MixtureMember, ...] = Field(
        (), description="Members of the preference model `mixture`: [{model: URI, weight: 1, temperature: 1}, …]."
    )

    @model_validator(mode="after")
    def _a_pass_holds_a_comparison(self) -> JudgeConfig:
        if 0 < self.batch_tokens < 512:
            raise ValueError(f"batch_tokens: {self.batch_tokens} is less than 512; 0 goes by the device's memory")
        return self
