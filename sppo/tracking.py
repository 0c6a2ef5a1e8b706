"""Tracking in MLflow: one parent run an alignment run, one nested run an iteration.

Each stage first writes what it has to say into the store (a `Record`) and then sends every record that is not sent yet.
So MLflow being down never fails a stage, and nothing is lost: the next stage, or the next resume, sends it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from sppo.bench.settings import BENCHMARKS
from sppo.config import RunConfig
from sppo.store import LocalStore, Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

_RUN_TAG = "sppo.run"
_ITERATION_TAG = "sppo.iteration"
_BATCH = 1000
"""Metrics that MLflow takes in one request."""


class Record(BaseModel):
    """What a stage has to say about an iteration, or, as iteration 0, about the whole run."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    stage: str
    iteration: int
    figures: dict[str, float] = {}
    steps: list[dict[str, float]] = []
    texts: dict[str, str] = {}
    model_uri: str = ""
    passed: bool = False
    finished: bool = False
    sent: bool = False

    def key(self) -> str:
        """Where the record lies in the store."""
        return f"tracking/iteration-{self.iteration}-{self.stage}.json"


def track(config: RunConfig, store: Store, record: Record) -> None:
    """Keep a record in the store, then send it and every earlier one that could not be sent."""
    kept = store.read(record.key())
    if kept is None or Record.model_validate_json(kept).model_copy(update={"sent": False}) != record:
        store.write(record.key(), record.model_dump_json().encode())
    uri = tracking_uri(store)
    if uri is None:
        print("MLFLOW_TRACKING_URI is not set: the figures are kept in the store until it is", flush=True)
        return
    waiting = [earlier for earlier in _records(config, store) if not earlier.sent]
    if not waiting:
        return
    with _outage_reported(uri):
        run = _Run(config, store, uri)
        for each in waiting:
            run.send(each)
            store.write(each.key(), each.model_copy(update={"sent": True}).model_dump_json().encode())


def tracking_uri(store: Store) -> str | None:
    """`MLFLOW_TRACKING_URI`, else a database beside the outputs where those are in a folder."""
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    if configured:
        return configured
    return f"sqlite:///{store.root}/mlflow.db" if isinstance(store, LocalStore) else None


def without_password(text: str) -> str:
    """A text in which addresses do not tell their user and password."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _records(config: RunConfig, store: Store) -> Iterator[Record]:
    """All records of a run, in the order of the loop."""
    stages = [("prepare", 0)]
    stages += [(stage, t) for t in range(1, config.iterations + 1) for stage in ("train", "evaluate")]
    last = ["publish", *(f"bench-{name}" for name in BENCHMARKS)]
    for stage, iteration in [*stages, *((stage, 0) for stage in last)]:
        data = store.read(Record(stage=stage, iteration=iteration).key())
        if data is not None:
            yield Record.model_validate_json(data)


@contextmanager
def _outage_reported(uri: str) -> Iterator[None]:
    """Turn an unreachable or failing MLflow into a warning; the records stay in the store."""
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError) as error:
        line = f"warning: MLflow at {uri} failed ({str(error).splitlines()[0]}); figures are kept and sent later"
        print(without_password(line), flush=True)


class _Run:
    """The parent run and its nested runs, found by tag or created."""

    def __init__(self, config: RunConfig, store: Store, uri: str) -> None:
        # A dead server must not hold up a GPU: fewer and shorter retries than MLflow's own.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self.config, self.store, self.uri = config, store, uri
        self.client: MlflowClient = MlflowClient(uri)
        attached = self._attached()
        if attached is not None:
            self.parent = attached
            # MLflow shows a nested run under its parent only where both are in one experiment.
            self.experiment = str(self.client.get_run(attached).info.experiment_id)
        else:
            self.experiment = self._experiment()
            self.parent = self._find_or_create({_RUN_TAG: self._identity()}, _name(store))

    def send(self, record: Record) -> None:
        """Log a record; sending one twice changes nothing."""
        run = self.parent if record.iteration == 0 else self._nested(record.iteration)
        if record.stage == "prepare":
            self._log_params()
        points = [(name, value, record.iteration) for name, value in record.figures.items()]
        curve = [
            (f"train/step_{name}", value, int(row["step"]))
            for row in record.steps
            for name, value in row.items()
            if name != "step"
        ]
        self._log_points(run, points + curve)
        if record.iteration:
            self._log_points(self.parent, points)
        for name, text in record.texts.items():
            self.client.log_text(run, text, name)
        if record.stage == "publish":
            self._register(record)
        if record.finished:
            self.client.set_terminated(run, "FINISHED")

    def _identity(self) -> str:
        # Quoted, because a filter of MLflow cannot hold an apostrophe.
        return f"{quote(self.store.uri, safe='/:')} {self.config.digest()[:16]}"

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.config.experiment)
        if found is not None:
            return str(found.experiment_id)
        local = self.uri.startswith("sqlite:") and isinstance(self.store, LocalStore)
        location = (Path(self.store.uri) / "mlflow-artifacts").as_uri() if local else None
        return str(self.client.create_experiment(self.config.experiment, artifact_location=location))

    def _attached(self) -> str | None:
        """The root of the run that `MLFLOW_RUN_ID` names: Kubeflow's MLflow plugin nests a run for every task."""
        run_id = os.environ.get("MLFLOW_RUN_ID")
        while run_id:
            parent = self.client.get_run(run_id).data.tags.get("mlflow.parentRunId")
            if not parent:
                break
            run_id = parent
        return run_id or None

    def _nested(self, iteration: int) -> str:
        tags = {_RUN_TAG: self._identity(), _ITERATION_TAG: str(iteration), "mlflow.parentRunId": self.parent}
        return self._find_or_create(tags, f"iteration-{iteration}")

    def _find_or_create(self, tags: Mapping[str, str], name: str) -> str:
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        for run in self.client.search_runs([self.experiment], condition):
            if (_ITERATION_TAG in tags) == (_ITERATION_TAG in run.data.tags):
                return str(run.info.run_id)
        return str(self.client.create_run(self.experiment, tags=dict(tags), run_name=name).info.run_id)

    def _log_params(self) -> None:
        from mlflow.entities import Param

        # Parameters cannot change once they are logged; these may, when a run is resumed.
        free = {"output_uri": self.store.uri, "shards": str(self.config.shards)}
        params = [Param(name, str(value)) for name, value in self.config.decisive().items()]
        self.client.log_batch(self.parent, params=params)
        for name, value in free.items():
            self.client.set_tag(self.parent, f"sppo.{name}", value)
        self.client.set_tag(self.parent, "sppo.config_digest", self.config.digest())

    def _log_points(self, run: str, points: Sequence[tuple[str, float, int]]) -> None:
        """Log (name, value, step) points that the run does not have yet."""
        from mlflow.entities import Metric

        names = {name for name, _, _ in points}
        known = {(metric.key, metric.step) for name in names for metric in self.client.get_metric_history(run, name)}
        now = int(time.time() * 1000)
        new = [Metric(name, value, now, step) for name, value, step in points if (name, step) not in known]
        for start in range(0, len(new), _BATCH):
            self.client.log_batch(run, metrics=new[start : start + _BATCH])

    def _register(self, record: Record) -> None:
        """Register the published weights, which stay in the run's store, and point the alias at them."""
        import mlflow

        name = self.config.publish.registered_model
        tag = {"sppo.uri": record.model_uri}
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        versions = [v for v in self.client.search_model_versions(f"name = '{name}'") if v.run_id == self.parent]
        if not versions:
            mlflow.set_tracking_uri(self.uri)
            model = mlflow.create_external_model(name=name, source_run_id=self.parent, tags=tag)
            versions = [
                self.client.create_model_version(
                    name, f"models:/{model.model_id}", run_id=self.parent, tags=tag, model_id=model.model_id
                )
            ]
        if record.passed:
            self.client.set_registered_model_alias(name, self.config.publish.alias, versions[0].version)


def _name(store: Store) -> str:
    return store.uri.rstrip("/").rpartition("/")[2]
