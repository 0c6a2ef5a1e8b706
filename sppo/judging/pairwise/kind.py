"""What both kinds of trained encoders have in common, as kinds of preference models."""

from __future__ import annotations

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.pairwise.encoder_config import read_config
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import WeightsKind
from sppo.models.fetch import fetch_model


class TrainedEncoder(WeightsKind):
    """A folder of `sppo train-preference`, which holds an adapter of an encoder that lies elsewhere."""

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`: the encoder must be there too, which most images lack."""
        encoder = read_config(fetch_model(uri, weights=False)).encoder
        try:
            fetch_model(encoder, weights=False)
        except ConfigError as error:
            raise ConfigError(f"preference model {uri} needs an encoder, {error}") from error

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.pairwise.encoder import PairwiseEncoder

        return PairwiseEncoder(fetch_model(uri), uri, batch_tokens=settings.batch_tokens, dtype=settings.dtype)
