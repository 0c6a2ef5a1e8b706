"""A chat model in this process: an LLM's taste offline, at the price of a GPU that holds it."""

from __future__ import annotations

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import Kind, register, text_sha256
from sppo.models.fetch import causal_lm_config, fetch_model, model_digest


@register
class ChatModel(Kind):
    """A language model in one of the sampling engines, which is the scheme."""

    schemes = ("vllm", "transformers")
    example = "vllm:URI or transformers:URI (a chat model, hf://…, s3://… or a folder)"

    def place(self, uri: str) -> str:
        """See `Kind.place`."""
        return uri.partition(":")[2]

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        model = self.place(uri)
        causal_lm_config(fetch_model(model, weights=False), model)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`; the engine belongs to it, because their arithmetic differs in the last digits."""
        from sppo.judging.llm.verdict import MESSAGE

        engine, _, model = uri.partition(":")
        return text_sha256(engine, MESSAGE, model_digest(fetch_model(model)))

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.llm.in_process import InProcess
        from sppo.judging.llm.verdict import LlmJudge

        return LlmJudge(InProcess(uri, settings), settings.llm.max_characters)
