"""The sections `publish` and `prices`: what is handed out, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from sppo.config.sections.section import Free, Readers, Section


class PublishConfig(Section):
    """What is handed out at the end."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "registered_model": Free("a name in MLflow"),
        "dtype": ("publish",),
        "keep": Free("what stays on the disk once all is done"),
    }

    registered_model: str = Field(
        "sppo",
        pattern=r"^[^/:.%\"']+$",
        description="Name in the MLflow model registry, of which every iteration's model is a version.",
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Type of the published weights.")
    keep: Literal["all", "best"] = Field(
        "all",
        description="Whose weights stay once the report is written: those of all iterations, or of the best one only.",
    )


class PricesConfig(Section):
    """What an hour of a stage costs, in whatever currency, for the report; a stage without a price is not counted."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "generate": ("report",),
        "rank": ("report",),
        "train": ("report",),
        "evaluate": ("report",),
    }

    generate: float = Field(0.0, ge=0, description="Price of an hour of the machine that a generate task runs on.")
    rank: float = Field(0.0, ge=0, description="The same of a rank task.")
    train: float = Field(0.0, ge=0, description="The same of all machines that train together.")
    evaluate: float = Field(0.0, ge=0, description="The same of an evaluate task.")
