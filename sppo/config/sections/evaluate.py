"""The section `evaluate`: how a policy is measured, and the gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from sppo.config.sections.section import Readers, Section

JUDGES = ("second", "third")
"""What figures call the judges of `evaluate.second_judge`, in their order."""


class GateConfig(Section):
    """When to go on, when to stop, and what counts as an aligned model."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "keep_previous_below": ("evaluate",),
        "second_judge_below": ("evaluate",),
        "stop_below": ("evaluate",),
        "max_length_growth": ("evaluate",),
        "max_instruction_drop": ("evaluate",),
        "required_vs_base": ("publish",),
    }

    keep_previous_below: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Keep the previous model when the interval of the win rate over it ends below this.",
    )
    second_judge_below: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Keep it too when the interval of a second judge, if there is one, ends below this.",
    )
    stop_below: float = Field(
        0.0, ge=0, le=1, description="Stop playing when the win rate over the previous model is below this."
    )
    max_length_growth: float = Field(
        1.5,
        ge=0,
        description="Keep the previous model when the mean answer is longer than this many times the base's; 0 is off.",
    )
    max_instruction_drop: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Keep the previous model when the share of instructions followed is more than this below the "
        "base's, and the interval of that fall is above 0.",
    )
    required_vs_base: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The run fails its gate unless the win rate's interval over the base starts above; 0 is off.",
    )


class InstructionsConfig(Section):
    """Prompts whose instructions code can check, as in IFEval (arXiv 2311.07911); they are answered greedily."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "prompts": ("prepare",),
        "count": ("prepare", "evaluate"),
        "final": ("prepare", "evaluate"),
        "max_tokens": ("instructions",),
    }

    prompts: str = Field(
        "package:sppo", min_length=1, description="A .jsonl file in IFEval's form, s3://… to one, or package:sppo."
    )
    count: int = Field(
        541,
        ge=0,
        description="How many, from the top, are answered after each iteration; 0 turns the gate's rule off.",
    )
    final: int = Field(
        0, ge=0, description="How many, from the top, the base and the best model answer once, at the end; 0: none."
    )
    max_tokens: int = Field(1024, ge=1, description="Longest answer, in tokens.")

    @property
    def kept(self) -> int:
        """How many prompts prepare keeps."""
        return max(self.count, self.final)


class EvaluateConfig(Section):
    """How a new policy is measured against the previous one and the base model, on held-out prompts."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "samples": ("answers",),
        "temperature": ("answers",),
        "top_p": ("answers",),
        "max_tokens": ("answers",),
        "bootstrap": ("evaluate",),
        "length_match": ("evaluate",),
        "second_judge": ("evaluate",),
        "panel": ("report",),
    }

    samples: int = Field(3, ge=1, description="Responses of each model to each held-out prompt.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 answers greedily.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass.")
    max_tokens: int = Field(1024, ge=1, description="Longest response, in tokens.")
    bootstrap: int = Field(2000, ge=100, description="Resamples of the prompts behind each 95 % interval.")
    length_match: float = Field(
        0.1, ge=0, lt=1, description="Answers whose lengths differ by at most this share count as equally long."
    )
    second_judge: tuple[str, ...] = Field(
        (),
        max_length=len(JUDGES),
        description="One or two further preference models, for win rates beside those of the first; empty: none.",
    )
    panel: int = Field(32, ge=1, description="Held-out prompts shown side by side in the report.")
    instructions: InstructionsConfig = InstructionsConfig()
    gate: GateConfig = GateConfig()

    @field_validator("second_judge", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        if isinstance(value, str):
            if "," in value:
                raise ValueError(f"{value!r} names several: write them as '[{', '.join(value.split(','))}]'")
            return (value,) if value else ()
        return value

    @model_validator(mode="after")
    def _greedy_answers_once(self) -> EvaluateConfig:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples ({self.samples}) must be 1 where temperature is 0: greedy answers are all the same"
            )
        return self
