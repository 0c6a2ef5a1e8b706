"""A language model behind an endpoint: the best taste that money buys; costs two requests a pair."""

from __future__ import annotations

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import Kind, register, text_sha256


@register
class ChatEndpoint(Kind):
    """A language model that answers requests for chat completions."""

    schemes = ("openai",)
    example = "openai:MODEL@https://HOST/v1 (an endpoint for chat completions)"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`; the endpoint is not asked."""
        from sppo.judging.llm.endpoint import parse, read_key

        read_key(parse(uri).url)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`; which weights answer to the model's name only the endpoint knows."""
        from sppo.judging.llm.endpoint import parse
        from sppo.judging.llm.verdict import MESSAGE

        parse(uri)
        return text_sha256(uri, MESSAGE)

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.llm.endpoint import Endpoint
        from sppo.judging.llm.verdict import LlmJudge

        return LlmJudge(Endpoint(uri, settings.llm), settings.llm.max_characters)
