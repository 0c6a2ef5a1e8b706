"""Everything a report says, gathered from what the stages committed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from sppo.config.run import RunConfig
from sppo.errors import ConfigError, InfrastructureError
from sppo.evaluation.gate import ENOUGH, PUBLISH_SLOPE
from sppo.evaluation.statistics import FEWEST
from sppo.preparing.chunks import chunk_counts, shard_count
from sppo.preparing.recorded import configurations, run_name
from sppo.reporting.report.checked import Checked, checked
from sppo.store import keys, tables
from sppo.store.base import Manifest, Store
from sppo.store.lineage import GOES_ON, Lineage


@dataclass(frozen=True)
class Sample:
    """The first answers of three models to one held-out prompt, and the judge's view of the new model's."""

    prompt_id: str
    prompt: str
    base: str
    previous: str
    new: str
    win_rate_vs_base: float
    """Share of the prompt's answer pairs, over all samples, that the new model wins."""
    probability_vs_base: float
    """Mean probability of winning, over the same pairs."""
    probability_vs_previous: float
    """The same against the previous model."""


@dataclass(frozen=True)
class IterationReport:
    """One iteration: its figures, what the gate decided, how the training went, and answers to look at."""

    iteration: int
    figures: Mapping[str, float]
    decision: str
    reason: str
    model_uri: str
    best_iteration: int
    """The iteration of the best model so far; 0 is the base."""
    inputs: Mapping[str, str]
    """Digests of what was compared: the models as `new`, `previous` and `base`, the held-out prompts, the config."""
    pairs: str
    """Digest of the pairs that the model was trained on."""
    digest: str
    """Digest of the committed evaluation."""
    seconds: Mapping[str, float]
    """Time of each stage's work, its tasks added up; without the stages for which a store holds none."""
    training_log: Sequence[Mapping[str, float]]
    distribution: Sequence[float]
    """How many of the judge's probabilities lie in each of equal bins of [0, 1]."""
    samples: Sequence[Sample]
    checked: Sequence[Checked] = ()
    """Answers to prompts with instructions that code checks; empty where none were asked."""
    dropped: str = ""
    """Why the model's weights are not there any more; empty where they are."""
    ended: str = ""
    """When its evaluation was committed, as the manifest has it."""
    machines: tuple[str, ...] = ()
    """What its stages computed with, in their order."""


@dataclass(frozen=True)
class RunReport:
    """A run as far as it was evaluated."""

    config: RunConfig
    prepare: Mapping[str, float]
    tables: Mapping[str, str]
    """SHA-256 of the tables of prompts, by file name."""
    iterations: Sequence[IterationReport]
    began: str = ""
    """When its prompts were committed, as the manifest has it."""
    published: str = ""
    """Where the best model is published, or will be in a moment; empty while iterations are to come."""

    @property
    def best(self) -> IterationReport | None:
        """The iteration that trained the best model, or None where that is the base model."""
        best = self.iterations[-1].best_iteration
        return next((each for each in self.iterations if each.iteration == best), None)

    @property
    def best_uri(self) -> str:
        """Where the best model is."""
        return self.config.base_model if self.best is None else self.best.model_uri

    @property
    def best_digest(self) -> str:
        """Digest of the best model's folder, as `sppo.models.fetch.model_digest` gives it."""
        return self.iterations[-1].inputs["base"] if self.best is None else self.best.inputs["new"]

    @property
    def published_dtype(self) -> str:
        """Type of the published weights: the wanted one, or float32 where that one would lose what was trained."""
        lost = self.best is not None and self.best.figures.get(PUBLISH_SLOPE, 1.0) < ENOUGH
        return "float32" if lost else self.config.publish.dtype

    @property
    def telling(self) -> int:
        """Held-out prompts that tell the best model and the base apart: those that are not tied."""
        ties = self.best.figures.get("eval/ties_vs_base", 0.0) if self.best else 0.0
        return self.config.prepare.held_out - int(ties)

    @property
    def passed(self) -> bool:
        """Whether the best model's win rate over the base is above the required one, its 95 % interval included."""
        if self.best is None:
            return False
        required = self.config.evaluate.gate.required_vs_base
        # A bound of 0 is off: else a model that lost every comparison would fail a gate that asks for nothing.
        surely = self.best.figures["eval/win_rate_vs_base_low"] > required and self.telling >= FEWEST
        return required == 0 or surely


def collect(config: RunConfig, store: Store, last: int | None = None) -> RunReport:
    """Gather a run's report; it covers the iterations whose evaluation is committed, from the first to the `last`.

    Raises:
        ConfigError: if no iteration of this configuration is evaluated.
        InfrastructureError: if something committed is missing or damaged.
    """
    lineage = Lineage(config, store)
    prepared = store.manifest(lineage.prepared_key)
    shards = shard_count(config, chunk_counts(config, lineage))
    iterations = tuple(_iteration(config, lineage, iteration, shards) for iteration in lineage.evaluated(last))
    if prepared is None or not iterations:
        others = [f"'{run_name(each)}'" for each in configurations(store) if Lineage(each, store).evaluated()]
        earlier = f"; other starts there have results: `sppo report {others[0]}`" if others else ""
        raise ConfigError(
            f"{store.uri}: no iteration is evaluated there yet; if nobody plays the run now, `sppo resume {store.uri}` "
            f"goes on with it{earlier}"
        )
    digests = {file.path: file.sha256 for file in prepared.files if file.path.endswith(".parquet")}
    return RunReport(
        config=config,
        prepare=prepared.figures,
        tables=digests,
        iterations=iterations,
        began=prepared.at,
        published="" if iterations[-1].decision == GOES_ON else f"{store.uri}/{lineage.published_key}",
    )


def _iteration(config: RunConfig, lineage: Lineage, iteration: int, shards: int) -> IterationReport:
    store, key = lineage.store, lineage.model_key(iteration)
    evaluated, trained = store.manifest(lineage.evaluation_key(iteration)), store.manifest(key)
    if evaluated is None or trained is None:
        raise InfrastructureError(f"{store.uri}/{key}: evaluated but no longer there; resume the run")
    folder = store.fetch(lineage.evaluation_key(iteration))
    verdict = json.loads((folder / keys.VERDICT_FILE).read_text(encoding="utf-8"))
    log = store.read_committed(key, keys.TRAINING_LOG_FILE).decode()
    distribution = json.loads(store.read_committed(key, keys.DISTRIBUTION_FILE))
    comparisons = tables.read(folder / keys.COMPARISONS_FILE, tables.COMPARISONS)
    works = _works(lineage, iteration, shards, trained, evaluated)
    return IterationReport(
        iteration=iteration,
        figures={**trained.figures, **evaluated.figures},
        decision=verdict["decision"],
        reason=verdict["reason"],
        model_uri=f"{store.uri}/{key}",
        best_iteration=verdict["best_iteration"],
        inputs=evaluated.inputs,
        pairs=trained.inputs["pairs"],
        digest=evaluated.digest(),
        dropped=trained.dropped,
        ended=evaluated.at,
        machines=tuple(dict.fromkeys(each.machine for made in works.values() for each in made if each.machine)),
        seconds=_seconds(works),
        training_log=tuple(json.loads(line) for line in log.splitlines()),
        distribution=tuple(distribution),
        samples=_samples(store, verdict["answers"], comparisons, config.evaluate.panel),
        checked=checked(lineage, evaluated),
    )


def _works(
    lineage: Lineage, iteration: int, shards: int, trained: Manifest, evaluated: Manifest
) -> dict[str, list[Manifest]]:
    """What each stage of an iteration committed, as far as it is there."""
    store, digest = lineage.store, lineage.generate(iteration)
    found = (store.manifest(keys.response_chunk(iteration, digest, index)) for index in count())
    chunks = [chunk for chunk in takewhile(lambda manifest: manifest is not None, found) if chunk]
    ranked = (store.manifest(lineage.preferences_key(iteration, shard, shards)) for shard in range(shards))
    return {
        "generate": chunks,
        "rank": [each for each in ranked if each],
        "train": [trained],
        "evaluate": [evaluated],
    }


def _seconds(works: Mapping[str, Sequence[Manifest]]) -> dict[str, float]:
    taken = {stage: [each.seconds for each in made if each.seconds is not None] for stage, made in works.items()}
    return {stage: sum(seconds) for stage, seconds in taken.items() if seconds}


def _samples(
    store: Store, answers: Mapping[str, str], comparisons: Sequence[Mapping[str, Any]], panel: int
) -> tuple[Sample, ...]:
    """The first `panel` held-out prompts, which are the same in every iteration."""
    first = {
        role: [row for row in tables.read(store.fetch(key) / keys.ANSWERS_FILE, tables.ANSWERS) if row["sample"] == 0]
        for role, key in answers.items()
    }
    text = {role: {row["prompt_id"]: row["text"] for row in rows} for role, rows in first.items()}
    judged = {(row["opponent"], row["prompt_id"]): row for row in comparisons}
    return tuple(
        Sample(
            prompt_id=(prompt := row["prompt_id"]),
            prompt=row["prompt"],
            base=text["base"][prompt],
            previous=text["previous"][prompt],
            new=row["text"],
            win_rate_vs_base=judged["base", prompt]["win_rate"],
            probability_vs_base=judged["base", prompt]["probability"],
            probability_vs_previous=judged["previous", prompt]["probability"],
        )
        for row in first["new"][:panel]
    )
