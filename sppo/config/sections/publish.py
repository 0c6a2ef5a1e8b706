"""The sections `publish` and `prices`: what is handed out, and what it cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sppo.config.sections.section import Section


class PublishConfig(Section):
    """What is handed out at the end."""

    registered_model: str = Field(
        "sppo",
        pattern=r"^[^/:.%\"']+$",
        description="Name in the MLflow model registry, of which every iteration's model is a version.",
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Type of the published weights.")


class PricesConfig(Section):
    """What an hour of a stage costs, in whatever currency, for the report; a stage without a price is not counted."""

    generate: float = Field(0.0, ge=0, description="Price of an hour of the machine that a generate task runs on.")
    rank: float = Field(0.0, ge=0, description="The same of a rank task.")
    train: float = Field(0.0, ge=0, description="The same of all machines that train together.")
    evaluate: float = Field(0.0, ge=0, description="The same of an evaluate task.")
