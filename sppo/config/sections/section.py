"""The base of all sections: frozen models that know no unknown key, and say which stages read their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict

Stage = Literal[
    "prepare", "generate", "rank", "train", "answers", "instructions", "evaluate", "publish", "report", "bench"
]
"""What commits a folder. `answers` and `instructions` are what evaluate has a model answer, `report` is publish's."""

OF_A_RUN: tuple[Stage, ...] = tuple(stage for stage in get_args(Stage) if stage != "bench")
"""The stages that a run's results come from: a benchmark measures them, and belongs to the same run."""


@dataclass(frozen=True)
class Free:
    """A value that can change no result, so that it is in no digest, and why it cannot."""

    why: str


@dataclass(frozen=True)
class FreeIf:
    """A value that can change a result only beside some other values of its section."""

    free: Callable[[Any], bool]
    """Whether it cannot, from its section."""
    why: str
    stages: tuple[Stage, ...]
    """Who reads it where it can."""


Readers = tuple[Stage, ...] | Free | FreeIf


class Section(BaseModel):
    """Base of every part of the configuration: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    READ_BY: ClassVar[Mapping[str, Readers]] = {}
    """Of each value that is no section itself: the stages that read it, or why none of them counts."""
