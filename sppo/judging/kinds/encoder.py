"""The embedded judge, and what `sppo train-preference` makes: small and fast, no more than a beginning."""

from __future__ import annotations

from typing import Any

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import WeightsKind, register
from sppo.models.fetch import fetch_model


@register
class Encoder(WeightsKind):
    """A pairwise encoder."""

    example = "package:sppo (the embedded judge), a folder, s3://… or hf://… of `sppo train-preference`"
    trial_uri = "package:sppo"

    def recognizes(self, config: dict[str, Any], uri: str) -> bool:
        """See `WeightsKind.recognizes`."""
        return config.get("model_type") == "sppo-pairwise-encoder"

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.pairwise.encoder import PairwiseEncoder

        return PairwiseEncoder(fetch_model(uri), uri, batch_tokens=settings.batch_tokens, dtype=settings.dtype)
