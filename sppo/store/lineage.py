"""What a run's stages are made from, as a chain of digests, and so where each of them commits.

The digest of a stage is one of the values that it reads (`READ_BY` of the sections) and of the digests of what it is
made from. So a changed value changes the digests of the stages that read it and of what follows from them, no others.
What the gate decides is no part of this: an iteration follows from the training before it, whatever let it begin.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

from sppo.config.identity import digest_of
from sppo.config.run import RunConfig
from sppo.store import keys
from sppo.store.base import Store

GOES_ON = "continue"
"""The decision of the gate after which another iteration is played."""


class Lineage:
    """The stages of a run in its store, as it was prepared when this was first asked."""

    def __init__(self, config: RunConfig, store: Store) -> None:
        self.config, self.store = config, store
        self._trained = cache(self._train)  # which every later stage asks for, several times

    @cached_property
    def prepared(self) -> str:
        """Digest of prepare."""
        return digest_of(self.config.read_by("prepare"))

    def prompts(self, file: str) -> str:
        """SHA-256 of one of prepare's tables; empty if it has none of that name, a stand-in before they are there."""
        if self._tables is None:
            return f"{file} of {self.prepared}"
        return self._tables.get(file, "")

    @cached_property
    def _tables(self) -> dict[str, str] | None:
        manifest = self.store.manifest(self.prepared_key)
        return None if manifest is None else {entry.path: entry.sha256 for entry in manifest.files}

    def policy(self, iteration: int) -> str:
        """What tells pi_t: the key of the model that was trained before, or of the base what the configuration names.

        A run ends where its gate keeps the previous model, so that there is no other one to go on with.
        """
        return str(self.config.read_by("prepare")["base_model"]) if iteration == 1 else self.model_key(iteration - 1)

    def generate(self, iteration: int) -> str:
        """Digest of an iteration's responses."""
        prompts = self.prompts(keys.prompts_file(iteration))
        return digest_of(self.config.read_by("generate"), policy=self.policy(iteration), prompts=prompts)

    def rank(self, iteration: int) -> str:
        """Digest of an iteration's preferences and pairs."""
        return digest_of(self.config.read_by("rank"), responses=self.generate(iteration))

    def train(self, iteration: int) -> str:
        """Digest of the training that gives pi_{t+1}."""
        return self._trained(iteration)

    def _train(self, iteration: int) -> str:
        made_from = {"reference": self.policy(iteration), "preferences": self.rank(iteration)}
        return digest_of(self.config.read_by("train"), **made_from)

    def answers(self) -> str:
        """Digest of how a model answers the held-out prompts, whichever it is."""
        return digest_of(self.config.read_by("answers"), prompts=self.prompts(keys.HELD_OUT_FILE))

    def instructions(self, count: int) -> str:
        """Digest of how a model answers the first `count` prompts with verifiable instructions, whichever it is."""
        made_from = {"prompts": self.prompts(keys.INSTRUCTIONS_FILE), "count": str(count)}
        return digest_of(self.config.read_by("instructions"), **made_from)

    def evaluate(self, iteration: int) -> str:
        """Digest of an iteration's evaluation."""
        return digest_of(
            self.config.read_by("evaluate"),
            new=self.train(iteration),
            previous=self.policy(iteration),
            answers=self.answers(),
            instructions=self.instructions(self.config.evaluate.instructions.count),
            last=self.is_last(iteration),
        )

    def publish(self) -> str:
        """Digest of what is published of the iterations that are evaluated."""
        evaluations = [self.evaluate(iteration) for iteration in self.evaluated()]
        return digest_of(self.config.read_by("publish"), evaluations=evaluations)

    def report(self) -> str:
        """Digest of the report on those."""
        return digest_of(self.config.read_by("report"), published=self.publish())

    def is_last(self, iteration: int) -> bool:
        """Whether no iteration follows, whatever the gate decides."""
        return iteration >= self.config.iterations

    def evaluated(self, last: int | None = None) -> list[int]:
        """The iterations that are evaluated, as far as their gates went on.

        Args:
            last: the last one that is asked for; all of them if None.
        """
        return list(self._evaluated(last or self.config.iterations))

    def _evaluated(self, last: int) -> Iterator[int]:
        for iteration in range(1, last + 1):
            verdict = self.verdict(iteration)
            if verdict is None:
                return
            yield iteration
            if verdict["decision"] != GOES_ON:
                return

    def verdict(self, iteration: int) -> dict[str, Any] | None:
        """What the gate decided after an iteration, as evaluate wrote it; None if it is not evaluated."""
        key = self.evaluation_key(iteration)
        if self.store.manifest(key) is None:
            return None
        verdict: dict[str, Any] = json.loads(self.store.read_committed(key, keys.VERDICT_FILE))
        return verdict

    @property
    def prepared_key(self) -> str:
        """Where prepare commits."""
        return keys.prepared(self.prepared)

    def chunk_key(self, iteration: int, chunk: int) -> str:
        """Where generate commits a chunk."""
        return keys.response_chunk(iteration, self.generate(iteration), chunk)

    def preferences_key(self, iteration: int, shard: int, shards: int) -> str:
        """Where rank commits a shard."""
        return keys.preferences_shard(iteration, self.rank(iteration), shard, shards)

    def checkpoints_key(self, iteration: int) -> str:
        """Where a training keeps its checkpoints."""
        return keys.checkpoints(iteration, self.train(iteration))

    def base_logprobs_key(self, iteration: int) -> str:
        """Where train commits the base's log-probabilities, if its objective reads them."""
        return keys.base_logprobs(iteration, self.train(iteration))

    def model_key(self, iteration: int) -> str:
        """Where train commits."""
        return keys.model(iteration, self.train(iteration))

    def evaluation_key(self, iteration: int) -> str:
        """Where evaluate commits."""
        return keys.evaluation(iteration, self.evaluate(iteration))

    @property
    def published_key(self) -> str:
        """Where publish commits the model."""
        return keys.published(self.publish())

    @property
    def report_key(self) -> str:
        """Where publish commits the report."""
        return keys.report(self.report())
