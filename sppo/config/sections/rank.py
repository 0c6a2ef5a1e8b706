"""The section `rank`: from logits to a training pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sppo.config.plugins import SELECTIONS
from sppo.config.sections.section import Readers, Section


class RankConfig(Section):
    """How preferences become probabilities and pairs."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "prompt": ("rank",),
        "estimator": ("rank",),
        "temperature": ("rank", "evaluate"),
        "length_corrected": ("rank",),
        "soft_duplicates": ("rank",),
        "similarity": ("rank",),
        "selection": ("rank",),
        "minimum_margin": ("rank",),
        "length_tolerance": ("rank",),
    }

    prompt: Literal["plain", "templated"] = Field(
        "plain",
        description=(
            "What the judge is shown to rank: the user's text, or this in the policy's chat template, for PairRM only."
        ),
    )
    estimator: Literal["paper", "official"] = Field(
        "paper",
        description="`paper` keeps the pairwise probabilities, `official` first collapses them to a score a response.",
    )
    temperature: float = Field(1.0, gt=0, description="tau: larger values pull every probability towards 1/2.")
    length_corrected: bool = Field(
        False, description="Remove from the logits what the responses' difference in tokens explains, chunk by chunk."
    )
    soft_duplicates: bool = Field(False, description="Pull the probabilities of nearly equal responses towards 1/2.")
    similarity: Literal["trigrams", "minilm"] = Field(
        "trigrams", description="With `soft_duplicates`: what is compared, letters, or meanings by a sentence encoder."
    )
    selection: Annotated[str, SELECTIONS] = Field(
        "best-worst", description="Which responses a prompt trains on; ranking.md tells what each selects."
    )
    minimum_margin: float = Field(
        0.0, ge=0, le=1, description="A prompt is left out if the two win probabilities of its pair differ by less."
    )
    length_tolerance: float = Field(
        0.1, ge=0, le=1, description="With `length-matched`: largest difference in tokens, as a share of the longer."
    )

    @model_validator(mode="after")
    def _nothing_is_set_in_vain(self) -> RankConfig:
        default = type(self).model_fields["length_tolerance"].default
        if self.selection != "length-matched" and self.length_tolerance != default:
            raise ValueError("length_tolerance needs selection=length-matched: others do not look at the length")
        if self.similarity != "trigrams" and not self.soft_duplicates:
            raise ValueError(
                f"similarity={self.similarity} needs soft_duplicates=true: nothing else compares responses"
            )
        return self
