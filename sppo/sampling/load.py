"""The engine that a configuration names, loaded now or when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sppo.config.sections.generate import GenerateConfig
from sppo.models.fetch import Policy, fetch_policy
from sppo.progress import heartbeat
from sppo.sampling.engine import Engine, Response, Sampling


def load_engine(policy: Policy, config: GenerateConfig, context: int, sequences: int | None = None) -> Engine:
    """Load a model into the engine that the configuration names.

    Args:
        policy: the model.
        config: engine, dtype and memory share.
        context: tokens of the longest prompt and response together.
        sequences: responses that are sampled at once at most; None if unknown.
    """
    if config.engine == "vllm":
        from sppo.sampling.vllm_engine import VllmEngine

        return VllmEngine(policy, config, context, sequences)
    from sppo.sampling.transformers_engine import TransformersEngine

    return TransformersEngine(policy, config)


def context_of(prompts: Sequence[Mapping[str, Any]], max_tokens: int) -> int:
    """Tokens of the longest prompt and response together.

    Args:
        prompts: rows with `prompt_ids`.
        max_tokens: of a response.
    """
    return max(len(row["prompt_ids"]) for row in prompts) + max_tokens


class LazyEngine:
    """An engine that is loaded when it is first needed: a retried shard that is complete needs none, and no weights."""

    def __init__(self, uri: str, config: GenerateConfig, context: int, sequences: int | None = None) -> None:
        """Load nothing yet; for the policy's URI see `fetch_policy`, for the other arguments `load_engine`."""
        self.uri, self.config, self.context, self.sequences = uri, config, context, sequences
        self.engine: Engine | None = None
        self._expected: list[tuple[Sampling, tuple[int, ...]]] = []
        self._ahead: dict[tuple[Sampling, tuple[int, ...]], list[Response]] = {}

    @cached_property
    def policy(self) -> Policy:
        """The policy, whose files are fetched now if they were not before."""
        return fetch_policy(self.uri)

    def load(self) -> Engine:
        """The engine, loaded now if it was not before."""
        if self.engine is None:
            with heartbeat(f"loading {self.policy.folder} into {self.config.engine}"):
                self.engine = load_engine(self.policy, self.config, self.context, self.sequences)
        return self.engine

    def expect(self, prompts: Sequence[list[int]], sampling: Sampling) -> None:
        """Say that these prompts will be asked for: if greedy, they are answered with the next ones that are like them.

        For twice as many answers a step of a small model takes hardly longer.
        """
        if sampling.temperature == 0:
            self._expected += [(sampling, tuple(ids)) for ids in prompts]

    def sample(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> list[list[Response]]:
        """See `Engine.sample`; greedy answers are those that were made before, where they were expected."""
        asked = [(sampling, tuple(ids)) for ids in prompts]
        if all(each in self._ahead for each in asked):
            return [self._ahead[each] for each in asked]
        expected = [each for each in self._expected if each[0] == sampling]
        self._expected = [each for each in self._expected if each[0] != sampling]
        later = [each for each in expected if each not in asked]
        everything = [*prompts, *(list(ids) for _, ids in later)]
        sampled = self.load().sample(everything, sampling, [*seeds, *[0] * len(later)])
        answers = dict(zip([*asked, *later], sampled, strict=True))
        self._ahead |= {each: answers[each] for each in expected}
        return sampled[: len(prompts)]

    def close(self) -> None:
        """Free the model's memory, if it was loaded."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None
