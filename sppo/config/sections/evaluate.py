"""The section `evaluate`: how a policy is measured, and the gate."""

from __future__ import annotations

from pydantic import Field, model_validator

from sppo.config.sections.section import Section


class GateConfig(Section):
    """When to go on, when to stop, and what counts as an aligned model."""

    keep_previous_below: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Keep the previous model when the interval of the win rate over it ends below this.",
    )
    second_judge_below: float = Field(
        0.5, ge=0, le=1, description="Keep it too when the second judge's interval, if there is one, ends below this."
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
        0.5, ge=0, le=1, description="The run fails its gate unless the win rate's interval over the base starts above."
    )


class InstructionsConfig(Section):
    """Prompts whose instructions code can check, as in IFEval (arXiv 2311.07911); they are answered greedily."""

    prompts: str = Field(
        "package:sppo", min_length=1, description="A .jsonl file in IFEval's form, s3://… to one, or package:sppo."
    )
    count: int = Field(
        541, ge=0, description="At most so many of them, the first, are answered; 0: instructions are not measured."
    )
    max_tokens: int = Field(1024, ge=1, description="Longest answer, in tokens.")


class EvaluateConfig(Section):
    """How a new policy is measured against the previous one and the base model, on held-out prompts."""

    samples: int = Field(3, ge=1, description="Responses of each model to each held-out prompt.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 answers greedily.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass.")
    max_tokens: int = Field(1024, ge=1, description="Longest response, in tokens.")
    bootstrap: int = Field(2000, ge=100, description="Resamples of the prompts behind each 95 % interval.")
    length_match: float = Field(
        0.1, ge=0, lt=1, description="Answers whose lengths differ by at most this share count as equally long."
    )
    second_judge: str = Field(
        "", description="Another preference model, for win rates that the training did not optimise; empty: none."
    )
    panel: int = Field(32, ge=1, description="Held-out prompts shown side by side in the report.")
    instructions: InstructionsConfig = InstructionsConfig()
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _greedy_answers_once(self) -> EvaluateConfig:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples ({self.samples}) must be 1 where temperature is 0: greedy answers are all the same"
            )
        return self
