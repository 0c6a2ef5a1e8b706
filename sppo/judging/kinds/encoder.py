"""The embedded judges, and what `sppo train-preference` makes: small and fast, no more than a beginning."""

from __future__ import annotations

import json
from typing import Any

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.pairwise.kind import TrainedEncoder
from sppo.judging.registry import register
from sppo.models.fetch import fetch_model


@register
class Encoder(TrainedEncoder):
    """A pairwise encoder."""

    example = (
        "package:sppo and package:sppo/second (the embedded judges), a folder, s3://… or hf://… of "
        "`sppo train-preference`"
    )
    trial_uri = "package:sppo"

    def recognizes(self, config: dict[str, Any], uri: str) -> bool:
        """See `WeightsKind.recognizes`."""
        return config.get("model_type") == "sppo-pairwise-encoder"

    def passes(self, uri: str, settings: JudgeConfig, responses: int) -> int:
        """See `Kind.passes`: each response is encoded once where the model encodes them alone."""
        encodes = json.loads((fetch_model(uri, weights=False) / "config.json").read_bytes()).get("encodes", "pair")
        return responses if encodes == "response" else super().passes(uri, settings, responses)
