"""What a stage has to say, in the form in which the store keeps it until MLflow has it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Rows = list[dict[str, str | float]]
"""A table."""


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Dataset(_Said):
    """What a stage read, by content."""

    name: str
    sha256: str
    source: str
    """Where it lies."""
    rows: int
    context: Literal["training", "evaluation"]
    measures: str = ""
    """Figures whose names begin so were measured on it."""


class Model(_Said):
    """The policy that an iteration trained."""

    uri: str
    sha256: str
    decision: str = ""
    """The gate's, once it is evaluated."""


class Weights(_Said):
    """Whether the weights of an iteration's model are there once the run is published."""

    iteration: int
    sha256: str
    """Of the model."""
    dropped: str
    """Why they are not; empty where they are."""


class Publication(_Said):
    """How a run ended."""

    uri: str
    best_iteration: int
    """The iteration whose model is published; 0 for the base model."""
    sha256: str = ""
    """Of that iteration's model."""
    passed: bool
    weights: list[Weights] = []
    """Of every evaluated iteration's model."""


class Record(_Said):
    """What a stage has to say about an iteration, or, as iteration 0, about the whole run."""

    stage: str
    iteration: int
    made: str = ""
    """Digits of the digest of the stage, as the keys of what it committed have them."""
    figures: dict[str, float] = {}
    steps: list[dict[str, float]] = []
    """Rows of a curve: figures of the training with their `step`."""
    system: list[dict[str, float]] = []
    """Samples of the machine, as `sppo.reporting.tracking.system` takes them."""
    texts: dict[str, str] = {}
    """Artifacts by file name."""
    tables: dict[str, Rows] = {}
    """Artifacts that MLflow shows as tables, those of several runs side by side: rows by file name."""
    note: str = ""
    """A sentence for the head of the run's page."""
    tags: dict[str, str] = {}
    """Of the whole run."""
    datasets: list[Dataset] = []
    model: Model | None = None
    publication: Publication | None = None
    finished: bool = False
    time: int = 0
    """When it was first said, in ms since 1970: figures that are sent again are then the same to MLflow."""
    sent: bool = False

    def key(self) -> str:
        """Where the record lies in the store."""
        return f"tracking/iteration-{self.iteration}-{self.stage}{f'-{self.made}' if self.made else ''}.json"
