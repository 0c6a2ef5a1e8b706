"""General Preference Models: as cheap as a score, and they can say that A beats B, B beats C and C beats A."""

from __future__ import annotations

from typing import Any

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.pairwise.kind import TrainedEncoder
from sppo.judging.registry import register


@register
class GeneralPreference(TrainedEncoder):
    """An encoder that embeds each response; a comparison is a skew-symmetric product of two embeddings."""

    example = "FOLDER, s3://… or hf://… of `sppo train-preference --kind gpm`"

    def recognizes(self, config: dict[str, Any], uri: str) -> bool:
        """See `WeightsKind.recognizes`."""
        return config.get("model_type") == "sppo-general-preference"

    def passes(self, uri: str, settings: JudgeConfig, responses: int) -> int:
        """See `Kind.passes`: each response is embedded once."""
        return responses
