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
from sppo.reporting.tracking.record import Dataset, Model, Publication, Record
from sppo.store import keys
from sppo.store.base import Store

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
    manifest = store.manifest(keys.PREPARED)
    assert manifest is not None
    tables = [_prompts(store, t) for t in range(1, config.iterations + 1)]
    return Record(
        stage="prepare",
        iteration=0,
        figures=manifest.figures,
        texts={"config.json": config.model_dump_json(indent=1)},
        tags=origin_tags(),
        datasets=[*tables, *_held_out(store)],
    )


def trained(
    store: Store, iteration: int, pairs: Sequence[Mapping[str, Any]], system: Sequence[Mapping[str, float]]
) -> Record:
    """Of train: the curve, the pairs and the model.

    Args:
        store: where the model is committed.
        iteration: t, from 1.
        pairs: the rows that it was trained on, of all shards.
        system: samples of the machine.
    """
    manifest = store.manifest(keys.model(iteration))
    assert manifest is not None
    log = store.read_committed(keys.model(iteration), keys.TRAINING_LOG_FILE)
    dataset = Dataset(
        name=f"pairs-{iteration}",
        sha256=manifest.inputs["pairs"],
        source=f"{store.uri}/{keys.preferences(iteration, 0, 1).rpartition('/')[0]}",
        rows=len(pairs),
        context="training",
    )
    return Record(
        stage="train",
        iteration=iteration,
        figures=manifest.figures,
        steps=[json.loads(line) for line in log.splitlines()],
        system=list(map(dict, system)),
        tables={"pairs.json": [{name: row[name] for name in _SHOWN} for row in pairs[:SHOWN_PAIRS]]},
        datasets=[_prompts(store, iteration), dataset],
        model=_model(store, iteration),
    )


def evaluated(
    store: Store,
    iteration: int,
    samples: Sequence[Sample],
    found: Evaluation,
    texts: Mapping[str, str],
    system: Sequence[Mapping[str, float]],
) -> Record:
    """Of evaluate: the verdict, answers side by side, and the model as it was measured.

    Args:
        store: where the evaluation is committed.
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
        figures=found.figures,
        system=list(map(dict, system)),
        texts={**texts, "verdict.txt": f"{verdict}\n"},
        tables={"samples.json": [asdict(sample) for sample in samples]},
        note=verdict,
        datasets=_held_out(store),
        model=_model(store, iteration, found.decision),
        finished=True,
    )


def published(result: Published) -> Record:
    """Of publish: the report, and which model passed its gate or did not."""
    reports = {keys.REPORT_FILE: result.report_path, keys.SUMMARY_FILE: result.summary_path}
    best = int(result.figures["publish/best_iteration"])
    model = f"the model of iteration {best}" if best else "the base model"
    return Record(
        stage="publish",
        iteration=0,
        figures=result.figures,
        texts={name: path.read_text(encoding="utf-8") for name, path in reports.items()},
        publication=Publication(
            uri=result.model_uri,
            best_iteration=best,
            passed=result.passed,
        ),
        note=f"published {model}; the gate is {'passed' if result.passed else 'not passed'}",
        finished=True,
    )


def _model(store: Store, iteration: int, decision: str = "") -> Model:
    manifest = store.manifest(keys.model(iteration))
    assert manifest is not None
    return Model(uri=f"{store.uri}/{keys.model(iteration)}", sha256=manifest.digest(), decision=decision)


def _prompts(store: Store, iteration: int) -> Dataset:
    return _table(store, keys.prompts_file(iteration), name=f"prompts-{iteration}", context="training")


def _held_out(store: Store) -> list[Dataset]:
    """The prompts that are only answered to be measured, with the figures that they are for."""
    manifest = store.manifest(keys.PREPARED)
    assert manifest is not None
    files = {file.path for file in manifest.files}
    tables = {keys.HELD_OUT_FILE: ("held-out", "eval/"), keys.INSTRUCTIONS_FILE: ("instructions", INSTRUCTIONS)}
    return [
        _table(store, file, name=name, context="evaluation", measures=measures)
        for file, (name, measures) in tables.items()
        if file in files
    ]


def _table(store: Store, file: str, **fields: Any) -> Dataset:
    """A table of prepare as a dataset; `fields` are the rest of it."""
    data = store.read_committed(keys.PREPARED, file)
    return Dataset(
        sha256=hashlib.sha256(data).hexdigest(),
        source=f"{store.uri}/{keys.PREPARED}/{file}",
        rows=pq.read_metadata(io.BytesIO(data)).num_rows,
        **fields,
    )
