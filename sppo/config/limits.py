"""What a compiled pipeline can play: checked by submit, and by prepare for runs that a form started.

The limits are written into a package when it is compiled; `pipelines/sppo_pipelines/size.py` has the one on shards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sppo.config.run import RunConfig
from sppo.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """The largest run that a package can play."""

    max_iterations: int
    several_nodes: bool = False
    """Whether it can train in more than one pod."""
    shard_iterations: int | None = None
    """Shards of an iteration times iterations: what fits into a workflow of Argo; None where there is none."""

    def check(self, config: RunConfig) -> None:
        """Refuse more iterations or shards.

        Raises:
            ConfigError: naming what fits, and how to get more.
        """
        if config.iterations > self.max_iterations:
            raise ConfigError(
                f"iterations: {config.iterations}, but this pipeline was compiled for at most {self.max_iterations}; "
                "compile it with a larger --max-iterations"
            )
        if self.shard_iterations is None or config.shards * config.iterations <= self.shard_iterations:
            return
        most = self.shard_iterations // config.iterations
        raise ConfigError(
            f"shards: {config.shards} in {config.iterations} iterations do not fit into one workflow of Argo; at most "
            f"{most} do, so set shards={most} (where Argo's limit was raised, set workflow_bytes in the profile)"
        )

    def check_hardware(self, gpus: Mapping[str, str], nodes: int) -> None:
        """Refuse counts that Kubernetes would refuse, or that Kubeflow Pipelines would take for none.

        Args:
            gpus: accelerators of a pod, by parameter, such as `training_gpus`: strings, as Kubeflow wants them.
            nodes: pods that train together.

        Raises:
            ConfigError: naming every wrong count, or nodes that the package cannot play.
        """
        wrong = [f"{name}: {count!r}" for name, count in gpus.items() if not re.fullmatch(r"0|[1-9][0-9]*", count)]
        if wrong:
            raise ConfigError(f"{'; '.join(wrong)} is no whole number; write one, such as 0 or 8")
        if nodes < 1:
            raise ConfigError(f"training_nodes: {nodes} is less than 1")
        if nodes > 1 and not self.several_nodes:
            raise ConfigError(
                f"training_nodes: {nodes}, but this pipeline was compiled to train in one pod; compile it with a "
                "profile whose training.nodes is more than 1"
            )
