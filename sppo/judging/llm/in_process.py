"""A chat model in this process as the judge, through the sampling engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import numpy as np

from sppo.config.sections.generate import GenerateConfig
from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.llm.verdict import LETTERS, Reply, letter_of
from sppo.models.fetch import Policy, causal_lm_config, fetch_model, model_name
from sppo.preparing.chat import encode_prompt, load_tokenizer, plain_text
from sppo.sampling.load import load_engine

_SPELLINGS = 32
"""Tokens of one letter that are looked at."""


class InProcess:
    """Implements `sppo.judging.llm.verdict.Asker` with a model of one's own; the letters' probabilities are exact."""

    def __init__(self, uri: str, settings: JudgeConfig) -> None:
        """Load a chat model.

        Args:
            uri: `vllm:URI` or `transformers:URI`: the engine, and the model as base models are written.
            settings: `dtype`, and of `llm` the context and the share of a GPU's memory.

        Raises:
            ConfigError: if the URI names no chat model, vLLM is not installed, or no token is a letter.
        """
        engine, _, model = uri.partition(":")
        if engine == "vllm" and importlib.util.find_spec("vllm") is None:
            raise ConfigError(f"{uri}: vllm is not installed here; install it, or write transformers:{model}")
        folder = fetch_model(model)
        positions = getattr(causal_lm_config(folder, model), "max_position_embeddings", settings.llm.context)
        self.name = model_name(uri, folder)
        self.context = min(settings.llm.context, positions)
        self.tokenizer = load_tokenizer(folder)
        self.spellings = self._find_spellings()
        self.engine = load_engine(
            Policy(folder, model),
            GenerateConfig(engine=engine, dtype=settings.dtype, memory_fraction=settings.llm.memory_fraction),
            self.context,
        )

    def ask(self, messages: Sequence[str]) -> Iterator[tuple[int, Reply]]:
        """See `Asker.ask`.

        Raises:
            ConfigError: for a message that is longer than the context.
        """
        prompts = [encode_prompt(self.tokenizer, plain_text(self.tokenizer, message)) for message in messages]
        longest = max(map(len, prompts), default=0)
        if longest >= self.context:
            raise ConfigError(
                f"{self.name}: a comparison takes {longest} tokens, the context {self.context}; lower "
                "judge.llm.max_characters, or raise judge.llm.context if the model has more"
            )
        a, b = (self.spellings[letter] for letter in LETTERS)
        logprobs = self.engine.next_logprobs(prompts, [*a, *b])
        for row, prompt in enumerate(prompts):
            parts = logprobs[row, : len(a)], logprobs[row, len(a) :]
            letters = {letter: float(np.logaddexp.reduce(part)) for letter, part in zip(LETTERS, parts, strict=True)}
            yield row, Reply(letters, 0.0, len(prompt), 1)

    def figures(self) -> dict[str, float]:
        """See `Asker.figures`."""
        return {}

    def _find_spellings(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {letter: [] for letter in LETTERS}
        for token, number in sorted(self.tokenizer.get_vocab().items(), key=lambda item: (len(item[0]), item)):
            letter = letter_of(token)
            if letter is not None and len(found[letter]) < _SPELLINGS:
                found[letter].append(number)
        if not all(found.values()):
            raise ConfigError(f"{self.name}: its tokenizer has no token for A or for B; choose another model")
        return found
