"""The kinds of preference models: what each is good for, how its URI is recognised, and how it is loaded.

A URI whose scheme names no kind is a model's (`sppo.models.fetch_model`), whose config.json tells the kind.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol

from sppo.errors import ConfigError
from sppo.models import fetch_model, model_digest
from sppo.preference.base import PreferenceModel
from sppo.settings import JudgeConfig


class Kind(Protocol):
    """One kind of preference models."""

    example: str
    """How its URI is written, for messages."""

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """Make sure that the URI names a model of this kind, without loading it.

        Raises:
            ConfigError: if it does not.
            InfrastructureError: if a hub or store cannot be reached.
        """
        ...

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """A digest of all that its logits depend on, apart from `settings`."""
        ...

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """The model, ready to judge; raises as `check` does."""
        ...


class _Weights:
    """Kinds whose URI is a folder of weights."""

    def check(self, uri: str, settings: JudgeConfig) -> None:
        fetch_model(uri, weights=False)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        return model_digest(fetch_model(uri))


class Pairwise(_Weights):
    """The embedded judge, and what `sppo train-preference` makes: small and fast, no more than a beginning."""

    example = "package:sppo (the embedded judge), a folder, s3://… or hf://… of `sppo train-preference`"

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.preference.pairwise import PairwiseEncoder

        return PairwiseEncoder(fetch_model(uri), uri, batch_tokens=settings.batch_tokens, dtype=settings.dtype)


class PairRanker(_Weights):
    """PairRM: the paper's judge, in either of the layouts in which it is published."""

    example = "hf://llm-blender/PairRM, hf://llm-blender/PairRM-hf, or a folder in their layouts"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        from sppo.preference.pairrm_files import read_checkpoint

        read_checkpoint(fetch_model(uri, weights=False), uri)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`; the backbone's configuration may lie outside of the folder."""
        from sppo.preference.pairrm_files import read_backbone

        folder = fetch_model(uri)
        backbone = read_backbone(folder, uri).to_json_string()
        return hashlib.sha256(f"{model_digest(folder)} {backbone}".encode()).hexdigest()

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        folder = fetch_model(uri)
        if settings.pairrm == "llm-blender":
            from sppo.preference.llm_blender import LlmBlenderPairRM

            return LlmBlenderPairRM(folder, uri, dtype=settings.dtype)
        from sppo.preference.pairrm import PairRM

        return PairRM(folder, uri, batch_tokens=settings.batch_tokens, dtype=settings.dtype)


PAIRWISE, PAIR_RANKER = Pairwise(), PairRanker()
SCHEMES: dict[str, Kind] = {}
"""Kinds whose URI begins with a word of their own and a colon."""
WEIGHTS: tuple[Kind, ...] = (PAIRWISE, PAIR_RANKER)


def kind_of(uri: str) -> Kind:
    """The kind of the preference model that a URI names; of a hub only the small files are asked for.

    Raises:
        ConfigError: if it names nothing, or a model that is no preference model.
        InfrastructureError: if a hub or store cannot be reached.
    """
    scheme = uri.partition(":")[0]
    if scheme in SCHEMES:
        return SCHEMES[scheme]
    path = fetch_model(uri, weights=False) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{uri}: no config.json; supported preference models: {supported()}")
    kind = _of_weights(json.loads(path.read_bytes()))
    if kind is None:
        raise ConfigError(f"{uri}: not a preference model; supported: {supported()}")
    return kind


def _of_weights(config: dict[str, Any]) -> Kind | None:
    if config.get("model_type") == "sppo-pairwise-encoder":
        return PAIRWISE
    if config.get("ranker_type") == "pairranker" or "DebertaV2PairRM" in (config.get("architectures") or []):
        return PAIR_RANKER
    return None


def supported() -> str:
    """The URIs of all kinds, in words."""
    return "; ".join(kind.example for kind in (*WEIGHTS, *SCHEMES.values()))
