"""The section `prepare`: which prompts are played."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from sppo.config.plugins import FORMATS
from sppo.config.sections.section import Readers, Section


class PrepareConfig(Section):
    """Which prompts are played, and how they are divided."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "prompt_column": ("prepare",),
        "format": ("prepare",),
        "split": ("prepare",),
        "prompts_per_iteration": ("prepare",),
        "held_out": ("prepare",),
        "max_prompt_tokens": ("prepare",),
    }

    prompt_column: str = Field("prompt", description="Column of the prompts file that holds the user's message.")
    format: Annotated[str, FORMATS] = Field("text", description="How that column holds it.")
    split: str = Field(
        "", description="Split of a Hugging Face data set; empty: the one that `prompts` names, or else train."
    )
    prompts_per_iteration: int = Field(
        0, ge=0, description="Prompts in each iteration's part; 0 divides all prompts evenly over the iterations."
    )
    held_out: int = Field(64, ge=2, description="Prompts that are never trained on; evaluate answers them.")
    max_prompt_tokens: int = Field(
        512, ge=8, description="Longer prompts (chat template included) are dropped, and counted."
    )
