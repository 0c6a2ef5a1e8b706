"""The engine that a configuration names, loaded now or when it is first needed."""

from __future__ import annotations

from pathlib import Path

from sppo.config.run import RunConfig
from sppo.config.sections.generate import GenerateConfig
from sppo.progress import heartbeat
from sppo.sampling.engine import Engine


def load_engine(folder: Path, config: GenerateConfig, context: int) -> Engine:
    """Load a model into the engine that the configuration names.

    Args:
        folder: the model's folder.
        config: engine, dtype and memory share.
        context: tokens of the longest prompt and response together.
    """
    if config.engine == "vllm":
        from sppo.sampling.vllm_engine import VllmEngine

        return VllmEngine(folder, config, context)
    from sppo.sampling.transformers_engine import TransformersEngine

    return TransformersEngine(folder, config)


class LazyEngine:
    """A run's engine, loaded when it is first needed: a retried shard that is complete needs none."""

    def __init__(self, folder: Path, config: RunConfig, context: int | None = None) -> None:
        """Load nothing yet.

        Args:
            folder: the model's.
            config: the run's configuration.
            context: tokens of the longest prompt and response together; None: of those that the run asks for.
        """
        self.folder, self.config = folder, config
        self.context = context or config.prepare.max_prompt_tokens + config.longest_response()
        self.engine: Engine | None = None

    def load(self) -> Engine:
        """The engine, loaded now if it was not before."""
        if self.engine is None:
            with heartbeat(f"loading {self.folder} into {self.config.generate.engine}"):
                self.engine = load_engine(self.folder, self.config.generate, self.context)
        return self.engine

    def close(self) -> None:
        """Free the model's memory, if it was loaded."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None
