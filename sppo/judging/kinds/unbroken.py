"""A response that ends is better than one that breaks off: for small models, which ramble until they are cut."""

from __future__ import annotations

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import Kind, register, text_sha256
from sppo.judging.rules import ENDS, FOLLOWED, Rules, ends


@register
class Unbroken(Kind):
    """Whether a response ends as a text does, by its last character."""

    schemes = ("unbroken",)
    scores = True
    example = "unbroken (a response that ends over one that breaks off)"
    trial_uri = "unbroken"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        if uri != self.trial_uri:
            raise ConfigError(f"{uri}: this judge takes nothing after its name; write unbroken")

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`."""
        self.check(uri, settings)
        return text_sha256(uri, ENDS.pattern, str(FOLLOWED))

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        self.check(uri, settings)
        return Rules(uri, lambda prompt, response: FOLLOWED * ends(response))
