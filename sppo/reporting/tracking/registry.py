"""The models of a run in MLflow: one logged model and one registered version an iteration, and who has an alias.

The weights stay in the run's store; MLflow has their URI and digest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sppo.reporting.tracking.record import Model, Publication

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

CANDIDATE = "candidate"
"""Alias of the version that was evaluated last."""
CHAMPION = "champion"
"""Alias of the version that was published last with its gate passed."""


class Registry:
    """The logged models of an experiment, and the registered model that they are versions of."""

    def __init__(self, client: MlflowClient, uri: str, name: str, experiment: str) -> None:
        self.client, self.uri, self.name, self.experiment = client, uri, name, experiment

    def log_model(self, run: str, title: str, iteration: int, model: Model) -> LoggedModel:
        """Find or make the logged model that a run gave.

        Args:
            run: the iteration's run.
            title: the model's name, in which MLflow allows few characters.
            iteration: which iteration.
            model: the weights.

        Returns:
            It, with the figures that it has.
        """
        import mlflow
        from mlflow.entities import LoggedModelOutput

        # What has no client of its own: the function below, and a database in which a version is made of a model.
        mlflow.set_tracking_uri(self.uri)
        logged = self._logged(run)
        if logged is None:
            logged = mlflow.create_external_model(
                name=re.sub(r"[^\w-]+", "-", title),
                source_run_id=run,
                experiment_id=self.experiment,
                tags=_tags(iteration, model),
                model_type="policy",
            )
        outputs = self.client.get_run(run).outputs  # a search does not give them
        if not any(output.model_id == logged.model_id for output in outputs.model_outputs):
            self.client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
        return logged

    def register(self, run: str, model_id: str, iteration: int, model: Model) -> None:
        """Make an evaluated model a version of the registered model, and the candidate if it is new."""
        version = self._version(run)
        if version is None:
            if not self.client.search_registered_models(f"name = '{self.name}'"):
                self.client.create_registered_model(self.name)
            tags = _tags(iteration, model)
            version = self.client.create_model_version(
                self.name, f"models:/{model_id}", run_id=run, tags=tags, model_id=model_id
            )
        self._settle(version, "sppo.decision", model.decision, CANDIDATE)

    def publish(self, run: str, publication: Publication) -> None:
        """Note with the best iteration's version where it is published, and make it the champion if the gate passed."""
        version = self._version(run)
        if version is None:  # somebody deleted it
            return
        self.client.set_model_version_tag(self.name, version.version, "sppo.published_uri", publication.uri)
        passed = publication.passed
        self._settle(version, "sppo.gate", "passed" if passed else "failed", CHAMPION if passed else None)

    def _settle(self, version: Any, tag: str, value: str, alias: str | None) -> None:
        """Give a version its alias once: what is sent again later takes it neither from a newer version nor a person.

        The tag, which is written last, tells that this was done.
        """
        if tag in version.tags:
            return
        if alias:
            self.client.set_registered_model_alias(self.name, alias, version.version)
        self.client.set_model_version_tag(self.name, version.version, tag, value)

    def _logged(self, run: str) -> LoggedModel | None:
        """The logged model of a run; what an interruption left half made is removed."""
        from mlflow.entities import LoggedModelStatus

        whole = None
        for each in self.client.search_logged_models([self.experiment], f"source_run_id = '{run}'"):
            if each.status == LoggedModelStatus.READY:
                whole = each
            else:
                self.client.delete_logged_model(each.model_id)
        return whole

    def _version(self, run: str) -> Any | None:
        found = self.client.search_model_versions(f"name = '{self.name}' and run_id = '{run}'")
        return found[0] if found else None


def _tags(iteration: int, model: Model) -> dict[str, str]:
    return {"sppo.iteration": str(iteration), "sppo.uri": model.uri, "sppo.sha256": model.sha256}
