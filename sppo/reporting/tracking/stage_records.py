"""What each stage has to say, from what it committed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from sppo.config.run import RunConfig
from sppo.reporting.tracking.origin import origin_tags
from sppo.reporting.tracking.record import Dataset, Model, Publication, Record, Weights
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.lineage import Lineage

if TYPE_CHECKING:
    from sppo.evaluation.evaluate import Evaluation
    from sppo.reporting.publish import Published
    from sppo.reporting.report import Sample

SHOWN_PAIRS = 32
"""Pairs of an iteration that are shown in MLflow, the first by their prompts' ids."""
INSTRUCTIONS = "eval/instructions_"
"""How the names of figures begin that the verifiable instructions gave."""
_SHOWN = ("prompt", "chosen", "rejected", "p_chosen", "p_rejected")


def prepared(config: RunConfig, store: Store) -> Record:
    """Of prepare: the configuration, where the run comes from, and every prompt table."""
    prepared = Lineage(config, store).prepared_key
    manifest = store.manifest(prepared)
    assert manifest is not None
    tables = [_prompts(store, prepared, t) for t in range(1, config.iterations + 1)]
    return Record(
        stage="prepare",
        iteration=0,
        made=keys.short(config.digest()),
        figures=manifest.figures,
        texts={"config.json": config.model_dump_json(indent=1)},
        tags=origin_tags(),
        datasets=[*tables, *_held_out(store, prepared)],
    )


def trained(
    lineage: Lineage, iteration: int, pairs: Sequence[Mapping[str, Any]], system: Sequence[Mapping[str, float]]
) -> Record:
    """Of train: the curve, the pairs and the model.

    Args:
        lineage: of the run.
        iteration: t, from 1.
        pairs: the rows that it was trained on, of all shards.
        system: samples of the machine.
    """
    store, key = lineage.store, lineage.model_key(iteration)
    manifest = store.manifest(key)
    assert manifest is not None
    log = store.read_committed(key, keys.TRAINING_LOG_FILE)
    dataset = Dataset(
        name=f"pairs-{iteration}",
        sha256=manifest.inputs["pairs"],
        source=f"{store.uri}/{keys.preferences(iteration, lineage.rank(iteration))}",
        rows=len(pairs),
        context="training",
    )
    return Record(
        stage="train",
        iteration=iteration,
        made=keys.short(lineage.train(iteration)),
        figures=manifest.figures,
        steps=[json.loads(line) for line in log.splitlines()],
        system=list(map(dict, system)),
        tables={"pairs.json": [{name: row[name] for name in _SHOWN} for row in pairs[:SHOWN_PAIRS]]},
        datasets=[_prompts(store, lineage.prepared_key, iteration), dataset],
        model=_model(lineage, iteration),
    )


def evaluated(
    lineage: Lineage,
    iteration: int,
    samples: Sequence[Sample],
    found: Evaluation,
    texts: Mapping[str, str],
    system: Sequence[Mapping[str, float]],
) -> Record:
    """Of evaluate: the verdict, answers side by side, and the model as it was measured.

    Args:
        lineage: of the run.
        iteration: t, from 1.
        samples: answers of three models to some held-out prompts.
        found: what the evaluation found.
        texts: the reports of the run so far, by file name.
        system: samples of the machine.
    """
    verdict = f"{found.decision}: {found.reason}"
    return Record(
        stage="evaluate",
        iteration=iteration,
        made=keys.short(lineage.evaluate(iteration)),
        figures=found.figures,
        system=list(map(dict, system)),
        texts={**texts, "verdict.txt": f"{verdict}\n"},
        tables={"samples.json": [asdict(sample) for sample in samples]},
        note=verdict,
        datasets=_held_out(lineage.store, lineage.prepared_key),
        model=_model(lineage, iteration, found.decision),
        finished=True,
    )


def published(lineage: Lineage, result: Published) -> Record:
    """Of publish: the verdict, the report, and which model passed its gate or did not."""
    from sppo.reporting.report import render_note

    reports = {keys.REPORT_FILE: result.report_path, keys.SUMMARY_FILE: result.summary_path}
    best = int(result.figures["publish/best_iteration"])
    sha256 = _model(lineage, best).sha256 if best else ""
    return Record(
        stage="publish",
        iteration=0,
        made=keys.short(lineage.report()),
        figures=result.figures,
        texts={name: path.read_text(encoding="utf-8") for name, path in reports.items()},
        publication=Publication(
            uri=result.model_uri,
            best_iteration=best,
            sha256=sha256,
            passed=result.passed,
            weights=[_weights(lineage, t) for t in lineage.evaluated()],
        ),
        note=render_note(result.report),
        finished=True,
    )


def _model(lineage: Lineage, iteration: int, decision: str = "") -> Model:
    key = lineage.model_key(iteration)
    manifest = lineage.store.manifest(key)
    assert manifest is not None
    return Model(uri=f"{lineage.store.uri}/{key}", sha256=manifest.digest(), decision=decision)


def _weights(lineage: Lineage, iteration: int) -> Weights:
    manifest = lineage.store.manifest(lineage.model_key(iteration))
    assert manifest is not None
    return Weights(iteration=iteration, sha256=manifest.digest(), dropped=manifest.dropped)


def _prompts(store: Store, prepared: str, iteration: int) -> Dataset:
    return _table(store, prepared, keys.prompts_file(iteration), name=f"prompts-{iteration}", context="training")


def _held_out(store: Store, prepared: str) -> list[Dataset]:
    """The prompts that are only answered to be measured, with the figures that they are for."""
    manifest = store.manifest(prepared)
    assert manifest is not None
    files = {file.path for file in manifest.files}
    tables = {keys.HELD_OUT_FILE: ("held-out", "eval/"), keys.INSTRUCTIONS_FILE: ("instructions", INSTRUCTIONS)}
    return [
        _table(store, prepared, file, name=name, context="evaluation", measures=measures)
        for file, (name, measures) in tables.items()
        if file in files
    ]


def _table(store: Store, prepared: str, file: str, **fields: Any) -> Dataset:
    """A table of prepare as a dataset; `fields` are the rest of it."""
    data = store.read_committed(prepared, file)
    return Dataset(
        sha256=hashlib.sha256(data).hexdigest(),
        source=f"{store.uri}/{prepared}/{file}",
        rows=pq.read_metadata(io.BytesIO(data)).num_rows,
        **fields,
    )
