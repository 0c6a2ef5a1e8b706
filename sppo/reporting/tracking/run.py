"""The parent run and its nested runs in MLflow, and what a record becomes there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sppo.config.identity import values_read
from sppo.config.run import PreparedConfig, RunConfig
from sppo.config.sections.section import OF_A_RUN
from sppo.preparing.recorded import configuration
from sppo.reporting.tracking.database import artifacts_uri, one_at_a_time
from sppo.reporting.tracking.datasets import log_datasets, measured_on
from sppo.reporting.tracking.identity import TAG, identity, remember
from sppo.reporting.tracking.origin import origin_tags, user
from sppo.reporting.tracking.record import Dataset, Model, Record, Rows
from sppo.reporting.tracking.registry import Registry, made_by_another
from sppo.store.base import Store
from sppo.store.uri import last_part

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

_ITERATION_TAG = "sppo.iteration"
_CONTINUES_TAG = "sppo.continues"
"""The run that was played in the same place with other values, and whose work this one did not do again."""
_ENDED_TAG = "sppo.ended"
"""Why a run failed or was ended."""
FIRST = {
    "eval/win_rate_vs_base": "Verdict/1_win_rate_vs_base",
    "eval/mean_probability_vs_base": "Verdict/2_mean_probability_vs_base",
    "eval/instructions_instruction_strict": "Verdict/3_instructions_followed",
    "eval/mean_length": "Verdict/4_mean_length",
}
"""Figures with a second name on the parent run: MLflow sorts charts by name, capitals first, and begins with these."""
_OF_THE_RUN = ("mlflow.source.name", "mlflow.source.type")
"""Of where a run comes from, what is the same for all its stages; images of stages may be of different commits."""
_TABLES_TAG = "mlflow.loggedArtifacts"
"""In which MLflow looks up the artifacts that are tables."""
_METRICS, _PARAMS = 1000, 100
"""How many of these MLflow takes in one request."""


class _Point(NamedTuple):
    name: str
    value: float
    step: int
    time: int


class TrackedRun:
    """An alignment run in MLflow; its runs are found by tag or created."""

    def __init__(self, config: RunConfig, store: Store, uri: str) -> None:
        # A dead server must not hold up a GPU: fewer and shorter retries than MLflow's own.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self.config, self.store, self.uri = config, store, uri
        with one_at_a_time(uri):
            self.client: MlflowClient = MlflowClient(uri)
        attached = self._attached()
        self.is_attached = attached is not None
        if attached is not None:
            self.parent = attached
            # MLflow shows a nested run under its parent only where both are in one experiment.
            self.experiment = str(attached.info.experiment_id)
        else:
            self.experiment = self._experiment()
            origin = origin_tags() | self._continued()
            self.parent = self._find_or_create({TAG: identity(config, store)}, last_part(store.uri), origin)
        remember(config, store, uri, self.experiment, self.parent.info.run_id)
        self.registry = Registry(
            self.client, uri, config.publish.registered_model, self.experiment, store.uri, self._origin()
        )

    def send(self, record: Record) -> None:
        """Log a record; sending one twice changes nothing."""
        self.go_on()
        run = self._going_on(self._nested(record.iteration)) if record.iteration else self.parent
        if record.stage == "prepare":
            self._log_params()
        self._log_tags(self.parent, record.tags)
        log_datasets(self.client, run.info.run_id, record.datasets)
        self._log_files(run, record)
        figures = [_Point(name, value, record.iteration, record.time) for name, value in record.figures.items()]
        if record.iteration:
            first = [point._replace(name=FIRST[point.name]) for point in figures if point.name in FIRST]
            self._log_points(self.parent, [*first, *figures])
        points = [*_curve(record), *_system(record)]
        if record.model is None:
            points += figures
        else:
            self._log_model(run, record.iteration, record.model, figures, record.datasets)
        self._log_points(run, points)
        if record.publication is not None:
            self.registry.publish(self.parent.info.run_id, record.publication)
        ours = record.iteration or not self.is_attached
        if record.finished and ours and run.info.status != "FINISHED":
            self.client.set_terminated(run.info.run_id, "FINISHED")

    def go_on(self) -> None:
        """What failed or was ended goes on: a run that is resumed. One of Kubeflow's plugin is left to it."""
        if not self.is_attached:
            self.parent = self._going_on(self.parent)

    def _going_on(self, run: Run) -> Run:
        if run.info.status not in {"FAILED", "KILLED"}:
            return run
        self.client.update_run(run.info.run_id, status="RUNNING")
        if _ENDED_TAG in run.data.tags:
            self.client.delete_tag(run.info.run_id, _ENDED_TAG)
        return self.client.get_run(run.info.run_id)

    def end(self, status: str, reason: str) -> None:
        """End the run and its nested runs, as far as they go on.

        Args:
            status: FINISHED, FAILED or KILLED.
            reason: of a failure, for a tag; empty for none.
        """
        parent = self.parent.info.run_id
        nested = self.client.search_runs([self.experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
        ours = [run for run in nested if _ITERATION_TAG in run.data.tags]
        for run in [*ours, *([] if self.is_attached else [self.parent])]:
            if run.info.status not in {"RUNNING", "SCHEDULED"}:
                continue
            if reason:
                self.client.set_tag(run.info.run_id, _ENDED_TAG, reason)
            self.client.set_terminated(run.info.run_id, status)

    def _continued(self) -> dict[str, str]:
        """The tag that names the run of the configuration that was changed; none where MLflow does not know it."""
        before = configuration(self.store, self.config.continues) if isinstance(self.config, PreparedConfig) else None
        run = self._find({TAG: identity(before, self.store)}) if before else None
        return {_CONTINUES_TAG: run.info.run_id} if run else {}

    def _experiment(self) -> str:
        name = self.config.experiment
        if self.client.get_experiment_by_name(name) is None:
            with made_by_another():
                self.client.create_experiment(name, artifact_location=artifacts_uri(self.uri))
        found = self.client.get_experiment_by_name(name)
        assert found is not None
        return str(found.experiment_id)

    def _attached(self) -> Run | None:
        """The root of the run that `MLFLOW_RUN_ID` names: Kubeflow's MLflow plugin nests a run for every task."""
        run, run_id = None, os.environ.get("MLFLOW_RUN_ID")
        while run_id:
            run = self.client.get_run(run_id)
            run_id = run.data.tags.get("mlflow.parentRunId")
        return run

    def _nested(self, iteration: int) -> Run:
        parent = self.parent.info.run_id
        tags = {
            TAG: identity(self.config, self.store),
            _ITERATION_TAG: str(iteration),
            "mlflow.parentRunId": parent,
        }
        return self._find_or_create(tags, f"iteration-{iteration}", self._origin())

    def _find(self, tags: Mapping[str, str]) -> Run | None:
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        for run in self.client.search_runs([self.experiment], condition):
            if (_ITERATION_TAG in tags) == (_ITERATION_TAG in run.data.tags):
                return run
        return None

    def _find_or_create(self, tags: Mapping[str, str], name: str, origin: Mapping[str, str]) -> Run:
        """The run with some tags; a new one gets those too that tell where it comes from."""
        run = self._find(tags)
        if run is None:
            of_its_making = {"mlflow.user": user(), **origin}
            run = self.client.create_run(self.experiment, tags={**of_its_making, **tags}, run_name=name)
        return run

    def _origin(self) -> dict[str, str]:
        """Where the run comes from. Only prepare knows of which run of Kubeflow it is: the parent has its tags."""
        known = self.parent.data.tags.items()
        told = {name: value for name, value in known if name in _OF_THE_RUN or name.startswith("sppo.kfp_")}
        return origin_tags() | told

    def _log_params(self) -> None:
        from mlflow.entities import Param

        # MLflow refuses to change a parameter. A resumed run may name the same file in other words.
        known, values = self.parent.data.params, values_read(self.config, *OF_A_RUN)
        params = [Param(name, str(value)) for name, value in values.items() if name not in known]
        for start in range(0, len(params), _PARAMS):
            self.client.log_batch(self.parent.info.run_id, params=params[start : start + _PARAMS])
        # Parameters cannot change once they are logged; these may, when a run is resumed.
        free = {"output_uri": self.store.uri, "shards": str(self.config.shards), "config_digest": self.config.digest()}
        self._log_tags(self.parent, {f"sppo.{name}": value for name, value in free.items()})

    def _log_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if tags:
            self.client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _log_files(self, run: Run, record: Record) -> None:
        """Log the artifacts and the note of a record, whole: MLflow's `log_table` adds rows to a first attempt's."""
        files = record.texts | {name: _table(rows) for name, rows in record.tables.items()}
        if files:
            with tempfile.TemporaryDirectory(prefix="sppo-") as folder:
                for name, text in files.items():
                    path = Path(folder) / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text, encoding="utf-8")
                self.client.log_artifacts(run.info.run_id, folder)
        shown = json.loads(run.data.tags.get(_TABLES_TAG, "[]"))
        shown += [entry for name in record.tables if (entry := {"path": name, "type": "table"}) not in shown]
        tags = {_TABLES_TAG: json.dumps(shown)} if record.tables else {}
        self._log_tags(run, tags | ({"mlflow.note.content": record.note} if record.note else {}))

    def _log_model(
        self, run: Run, iteration: int, model: Model, figures: Sequence[_Point], datasets: Sequence[Dataset]
    ) -> None:
        """Log the model of an iteration's run; what is said of it once it is evaluated is the model's too."""
        title = f"{last_part(self.store.uri)}-iteration-{iteration}"
        logged = self.registry.log_model(run.info.run_id, title, iteration, model)
        if not model.decision:
            self._log_points(run, figures)
            return
        self._log_points(run, figures, logged, datasets)
        self.registry.register(run.info.run_id, logged, iteration, model)

    def _log_points(
        self,
        run: Run,
        points: Sequence[_Point],
        model: LoggedModel | None = None,
        datasets: Sequence[Dataset] = (),
    ) -> None:
        """Log the points that a run, or the logged model that they are of, does not have yet.

        Args:
            run: the run as it was found.
            points: what to log.
            model: the logged model, if the points are of one.
            datasets: on which it may have been measured.
        """
        from mlflow.entities import Metric

        new = set(self._unknown(run, points))
        if model is not None:
            known = {(metric.key, metric.step) for metric in model.metrics or []}
            # What the run has already is sent with the time that it has there, so that it stays one value.
            new |= {point for point in points if (point.name, point.step) not in known}
        metrics = []
        for point in points:
            if point in new:
                of = {"model_id": model.model_id, **measured_on(datasets, point.name)} if model else {}
                metrics.append(Metric(point.name, point.value, point.time, point.step, **of))
        for start in range(0, len(metrics), _METRICS):
            self.client.log_batch(run.info.run_id, metrics=metrics[start : start + _METRICS])

    def _unknown(self, run: Run, points: Sequence[_Point]) -> list[_Point]:
        """The points at steps for which a run has no value of that name."""
        latest = {metric.key: metric.step for metric in run.data.to_proto().metrics}
        # Whether the run has an earlier step is in the history only, which takes a request a name.
        asked = {point.name for point in points if point.step < latest.get(point.name, point.step)}
        known = {(m.key, m.step) for name in asked for m in self.client.get_metric_history(run.info.run_id, name)}
        known |= set(latest.items())
        return [point for point in points if (point.name, point.step) not in known]


def _curve(record: Record) -> Iterator[_Point]:
    for row in record.steps:
        for name, value in row.items():
            if name != "step":
                yield _Point(f"train/step_{name}", value, int(row["step"]), record.time)


def _system(record: Record) -> Iterator[_Point]:
    """Under the names of MLflow's own system metrics, the stage in the place of a node."""
    for step, sample in enumerate(record.system):
        for name, value in sample.items():
            if name != "time":
                yield _Point(f"system/{record.stage}/{name}", value, step, int(sample["time"]))


def _table(rows: Rows) -> str:
    """A table in the form of MLflow's `log_table`."""
    columns = list(rows[0]) if rows else []
    return json.dumps({"columns": columns, "data": [list(row.values()) for row in rows]}, ensure_ascii=False)
