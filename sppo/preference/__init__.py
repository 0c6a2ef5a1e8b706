"""Preference models: which of two responses to a prompt is better, and by how much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sppo.errors import ConfigError

if TYPE_CHECKING:
    from sppo.preference.base import PreferenceModel

SUPPORTED = (
    "package:sppo (the embedded judge), a folder, s3://… or hf://… of `sppo train-preference`, "
    "hf://llm-blender/PairRM, or a folder in PairRM's layout"
)


def load_preference_model(uri: str, *, batch_tokens: int = 8192, dtype: str = "float32") -> PreferenceModel:
    """The preference model that a URI names.

    Args:
        uri: see `sppo.models.fetch_model`; `package:sppo` is the embedded pairwise encoder.
        batch_tokens: tokens of one forward pass.
        dtype: arithmetic of the encoder, "float32" or "bfloat16".

    Raises:
        ConfigError: if the URI names nothing, or a model of another kind.
        InfrastructureError: if a hub or store cannot be reached.
    """
    from sppo.models import fetch_model

    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype: {dtype!r} is not one of float32, bfloat16")
    folder = fetch_model(uri)
    if _kind(folder, uri) == "pairwise":
        from sppo.preference.pairwise import PairwiseEncoder

        return PairwiseEncoder(folder, uri, batch_tokens=batch_tokens, dtype=dtype)
    from sppo.preference.pairrm import PairRM

    return PairRM(folder, uri, dtype=dtype)


def check_preference_model(uri: str) -> None:
    """Make sure that a URI names a preference model, without loading it; of a hub only the small files are asked for.

    Raises:
        ConfigError: if it names nothing, or a model of another kind.
        InfrastructureError: if a hub or store cannot be reached.
    """
    from sppo.models import fetch_model

    _kind(fetch_model(uri, weights=False), uri)


def _kind(folder: Path, uri: str) -> Literal["pairwise", "pairrm"]:
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{uri}: no config.json; supported preference models: {SUPPORTED}")
    config = json.loads(path.read_text())
    if config.get("model_type") == "sppo-pairwise-encoder":
        return "pairwise"
    if config.get("ranker_type") == "pairranker":
        return "pairrm"
    raise ConfigError(f"{uri}: not a preference model; supported: {SUPPORTED}")
