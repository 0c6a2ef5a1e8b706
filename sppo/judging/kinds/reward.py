"""Reward models: the best judges of their size for what they were trained on; scores are transitive."""

from __future__ import annotations

from typing import Any

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import WeightsKind, register
from sppo.models.fetch import fetch_model


@register
class Reward(WeightsKind):
    """A sequence classifier of transformers with one label."""

    example = "hf://ORG/NAME or a folder of a reward model (…ForSequenceClassification with one label)"
    scores = True

    def recognizes(self, config: dict[str, Any], uri: str) -> bool:
        """See `WeightsKind.recognizes`."""
        if not any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
            return False
        # transformers writes the labels down unless they are two.
        labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
        if labels != 1:
            raise ConfigError(f"{uri}: a classifier with {labels} labels; a reward model has one")
        return True

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.reward import RewardModel

        return RewardModel(fetch_model(uri), uri, batch_tokens=settings.batch_tokens, dtype=settings.dtype)
