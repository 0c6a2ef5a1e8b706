"""The engine that a configuration names, loaded now or when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sppo.config.sections.generate import GenerateConfig
from sppo.models.fetch import Policy, fetch_policy
from sppo.progress import heartbeat
from sppo.sampling.engine import Engine


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

    def close(self) -> None:
        """Free the model's memory, if it was loaded."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None
