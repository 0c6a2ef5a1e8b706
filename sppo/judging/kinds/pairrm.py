"""PairRM: the paper's judge, in either of the layouts in which it is published."""

from __future__ import annotations

from typing import Any

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import WeightsKind, register, text_sha256
from sppo.models.fetch import fetch_model, model_digest


@register
class PairRanker(WeightsKind):
    """PairRM, as this system's scorer or llm-blender computes it."""

    example = "hf://llm-blender/PairRM, hf://llm-blender/PairRM-hf, or a folder in their layouts"

    reads_templates = True

    def recognizes(self, config: dict[str, Any], uri: str) -> bool:
        """See `WeightsKind.recognizes`."""
        return config.get("ranker_type") == "pairranker" or "DebertaV2PairRM" in (config.get("architectures") or [])

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        from sppo.judging.pairrm.files import read_checkpoint

        read_checkpoint(fetch_model(uri, weights=False), uri)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`; the backbone's configuration may lie outside of the folder."""
        from sppo.judging.pairrm.files import read_backbone

        folder = fetch_model(uri)
        return text_sha256(f"{model_digest(folder)} {read_backbone(folder, uri).to_json_string()}")

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        folder = fetch_model(uri)
        if settings.pairrm == "llm-blender":
            from sppo.judging.pairrm.llm_blender import LlmBlenderPairRM

            return LlmBlenderPairRM(folder, uri, dtype=settings.dtype)
        from sppo.judging.pairrm.ranker import PairRM

        return PairRM(folder, uri, batch_tokens=settings.batch_tokens, dtype=settings.dtype)
