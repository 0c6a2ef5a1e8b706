"""Datasets in MLflow: which prompts and pairs a run read, by content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sppo.reporting.tracking.record import Dataset

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DIGEST = 32
"""MLflow's digests have at most 36 characters; the whole one is in the source."""


def log_datasets(client: MlflowClient, run: str, datasets: Sequence[Dataset]) -> None:
    """Log what a run read; MLflow keeps one of the same name and digest once."""
    from mlflow.entities import DatasetInput, InputTag

    inputs = [DatasetInput(_entity(each), [InputTag("mlflow.data.context", each.context)]) for each in datasets]
    if inputs:
        client.log_inputs(run, inputs)


def measured_on(datasets: Sequence[Dataset], figure: str) -> dict[str, str]:
    """How a metric of MLflow names the dataset that it was measured on; empty if that is none of these."""
    fitting = [each for each in datasets if each.measures and figure.startswith(each.measures)]
    if not fitting:
        return {}
    dataset = max(fitting, key=lambda each: len(each.measures))
    return {"dataset_name": dataset.name, "dataset_digest": dataset.sha256[:_DIGEST]}


def _entity(dataset: Dataset) -> Any:
    from mlflow.entities import Dataset as Entity

    return Entity(
        name=dataset.name,
        digest=dataset.sha256[:_DIGEST],
        source_type="s3" if dataset.source.startswith("s3://") else "local",
        source=json.dumps({"uri": dataset.source, "sha256": dataset.sha256}),
        profile=json.dumps({"num_rows": dataset.rows}),
    )
