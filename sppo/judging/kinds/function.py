"""A Python function of one's own: for tasks whose answers can be verified, such as mathematics or code."""

from __future__ import annotations

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.functions import load_function, module_source
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import Kind, register, text_sha256
from sppo.judging.rules import Rules
from sppo.store.base import file_sha256


@register
class Function(Kind):
    """A score that a function gives."""

    schemes = ("rules",)
    scores = True
    example = "rules:MODULE:FUNCTION (a Python function)"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        load_function(uri.partition(":")[2])

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`: of the function's module; what that imports is not looked at."""
        return text_sha256(uri, file_sha256(module_source(uri.partition(":")[2])))

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        return Rules(f"{uri} ({self.digest(uri, settings)[:12]})", load_function(uri.partition(":")[2]))
