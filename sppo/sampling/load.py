"""The engine that a configuration names, loaded now or when it is first needed."""

from __future__ import annotations

from sppo.config.run import RunConfig
from sppo.config.sections.generate import GenerateConfig
from sppo.models.fetch import Policy
from sppo.progress import heartbeat
from sppo.sampling.engine import Engine


def load_engine(
    policy: Policy, config: GenerateConfig, context: int, adapter_rank: int = 0, sequences: int | None = None
) -> Engine:
    """Load a model into the engine that the configuration names.

    Args:
        policy: the model.
        config: engine, dtype and memory share.
        context: tokens of the longest prompt and response together.
        adapter_rank: rank of the adapters of this run, also where this policy has none yet.
        sequences: responses that are sampled at once at most; None if unknown.
    """
    if config.engine == "vllm":
        from sppo.sampling.vllm_engine import VllmEngine

        return VllmEngine(policy, config, context, adapter_rank, sequences)
    from sppo.sampling.transformers_engine import TransformersEngine

    return TransformersEngine(policy, config)


class LazyEngine:
    """A run's engine, loaded when it is first needed: a retried shard that is complete needs none."""

    def __init__(
        self, policy: Policy, config: RunConfig, context: int | None = None, sequences: int | None = None
    ) -> None:
        """Load nothing yet.

        Args:
            policy: the model.
            config: the run's configuration.
            context: tokens of the longest prompt and response together; None: of those that the run asks for.
            sequences: responses that are sampled at once at most; None if unknown.
        """
        self.policy, self.config = policy, config
        self.context = context or config.prepare.max_prompt_tokens + config.longest_response()
        self.sequences = sequences
        self.engine: Engine | None = None

    def load(self) -> Engine:
        """The engine, loaded now if it was not before."""
        if self.engine is None:
            with heartbeat(f"loading {self.policy.folder} into {self.config.generate.engine}"):
                rank = self.config.train.lora.rank
                self.engine = load_engine(self.policy, self.config.generate, self.context, rank, self.sequences)
        return self.engine

    def close(self) -> None:
        """Free the model's memory, if it was loaded."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None
