"""The models of a run in MLflow: one logged model and one registered version an iteration, and who has an alias.

The weights stay in the run's store; MLflow has their URI and digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sppo.reporting.tracking.database import one_at_a_time
from sppo.reporting.tracking.origin import user
from sppo.reporting.tracking.record import Model, Publication, Weights

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

CANDIDATE = "candidate"
"""Alias of the version that was evaluated last."""
CHAMPION = "champion"
"""Alias of the version that was published last with its gate passed."""


_VERSIONS = "mlflow.modelVersions"
"""Tag of a logged model: its versions. MLflow's server writes it, and not a client of a database."""
DROPPED = "sppo.dropped"
"""Tag of a version whose weights are not there any more: why."""
_DROPPED_LINE = "The weights were dropped"
"""How the line of its description begins that says so."""


@contextmanager
def made_by_another() -> Iterator[None]:
    """Let what is made in the block be there already: another run may have made it since it was looked for."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


class Registry:
    """The logged models of a run, and the registered model that they are versions of; other runs have theirs there too.

    Args:
        client: of MLflow.
        uri: MLflow's address.
        name: the registered model.
        experiment: the run's.
        place: where the run's models lie.
    """

    def __init__(
        self, client: MlflowClient, uri: str, name: str, experiment: str, place: str, origin: Mapping[str, str]
    ) -> None:
        self.client, self.uri, self.name, self.experiment, self.place = client, uri, name, experiment, place
        self.origin = origin

    def log_model(self, run: str, title: str, iteration: int, model: Model) -> LoggedModel:
        """Find or make the logged model of an iteration, which a run with other values may have trained.

        Args:
            run: the iteration's run.
            title: the model's name, in which MLflow allows few characters.
            iteration: which iteration.
            model: the weights.

        Returns:
            It, with the figures that it has.
        """
        import mlflow

        # What has no client of its own: the function below, and a database in which a version is made of a model.
        mlflow.set_tracking_uri(self.uri)
        logged = self._logged(run, iteration, model.sha256)
        if logged is None:
            logged = mlflow.create_external_model(
                name=re.sub(r"[^\w-]+", "-", title),
                source_run_id=run,
                experiment_id=self.experiment,
                tags={"mlflow.user": user(), **self.origin, **_tags(iteration, model)},
                model_type="policy",
            )
        self._attach(run, logged)
        return logged

    def _attach(self, run: str, logged: LoggedModel) -> None:
        """Name a logged model, and so its versions, on a run's page."""
        from mlflow.entities import LoggedModelOutput

        outputs = self.client.get_run(run).outputs  # a search does not give them
        if not any(output.model_id == logged.model_id for output in outputs.model_outputs):
            self.client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])

    def register(self, run: str, logged: LoggedModel, iteration: int, model: Model) -> None:
        """Make an evaluated model a version of the registered model, and the candidate if it is new."""
        version = self._version(iteration, model.sha256)
        if version is None:
            if not self.client.search_registered_models(f"name = '{self.name}'"):
                with made_by_another():
                    self.client.create_registered_model(self.name)
            tags = _tags(iteration, model)
            version = self.client.create_model_version(
                self.name, f"models:/{logged.model_id}", run_id=run, tags=tags, model_id=logged.model_id
            )
        self._name_on(logged, version)
        self._settle(version, "sppo.decision", model.decision, CANDIDATE)

    def publish(self, run: str, publication: Publication) -> None:
        """Note with the best iteration's version where it is published, and make it the champion if the gate passed.

        Versions whose weights were dropped are told so, as those are registered all the same.

        Args:
            run: the alignment run, whose model the version becomes.
            publication: how that ended.
        """
        for each in publication.weights:
            self._tell_dropped(each)
        best = publication.best_iteration
        version = self._version(best, publication.sha256) if best else None
        if version is None:  # the base model is none of ours, or somebody deleted it
            return
        self.client.set_model_version_tag(self.name, version.version, "sppo.published_uri", publication.uri)
        logged = self._find_logged(best, publication.sha256)
        if logged is not None:
            self._attach(run, logged)
        passed = publication.passed
        self._settle(version, "sppo.gate", "passed" if passed else "failed", CHAMPION if passed else None)

    def _tell_dropped(self, weights: Weights) -> None:
        """Say of a version why its weights are not there any more; or no more, once they are there again.

        The description may hold a person's words too, which stay.
        """
        version = self._version(weights.iteration, weights.sha256)
        if version is None or version.tags.get(DROPPED, "") == weights.dropped:
            return
        lines = [line for line in (version.description or "").splitlines() if not line.startswith(_DROPPED_LINE)]
        lines += [f"{_DROPPED_LINE} ({weights.dropped})."] if weights.dropped else []
        self.client.update_model_version(self.name, version.version, description="\n".join(lines))
        if weights.dropped:
            self.client.set_model_version_tag(self.name, version.version, DROPPED, weights.dropped)
        else:
            self.client.delete_model_version_tag(self.name, version.version, DROPPED)

    def _settle(self, version: Any, tag: str, value: str, alias: str | None) -> None:
        """Give a version its alias once: what is sent again later takes it neither from a newer version nor a person.

        The tag, which is written last, tells that this was done. Another gate may decide otherwise about it later.
        """
        if version.tags.get(tag) == value:
            return
        if alias:
            with one_at_a_time(self.uri):  # two runs at once would both insert it, and one would fail
                self.client.set_registered_model_alias(self.name, alias, version.version)
        self.client.set_model_version_tag(self.name, version.version, tag, value)

    def _logged(self, run: str, iteration: int, sha256: str) -> LoggedModel | None:
        """The logged model of an iteration; what an interruption left half made is removed."""
        from mlflow.entities import LoggedModelStatus

        for each in self.client.search_logged_models([self.experiment], f"source_run_id = '{run}'"):
            if each.status != LoggedModelStatus.READY:
                self.client.delete_logged_model(each.model_id)
        return self._find_logged(iteration, sha256)

    def _find_logged(self, iteration: int, sha256: str) -> LoggedModel | None:
        found = self.client.search_logged_models([self.experiment], f"tags.`sppo.sha256` = '{sha256}'")
        return next((each for each in found if self._is_ours(each.tags, iteration)), None)

    def _name_on(self, logged: LoggedModel, version: Any) -> None:
        """Name a version on the page of its logged model, and on those of the runs that this is attached to."""
        versions = json.loads(self.client.get_logged_model(logged.model_id).tags.get(_VERSIONS, "[]"))
        this = {"name": self.name, "version": str(version.version)}
        if this not in versions:
            self.client.set_logged_model_tags(logged.model_id, {_VERSIONS: json.dumps([*versions, this])})

    def _version(self, iteration: int, sha256: str) -> Any | None:
        found = self.client.search_model_versions(f"name = '{self.name}' and tags.`sppo.sha256` = '{sha256}'")
        return next((each for each in found if self._is_ours(each.tags, iteration)), None)

    def _is_ours(self, tags: Mapping[str, str], iteration: int) -> bool:
        """Whether something is an iteration's of this run: one with the same seed trains the same elsewhere."""
        return tags.get("sppo.iteration") == str(iteration) and tags.get("sppo.uri", "").startswith(f"{self.place}/")


def _tags(iteration: int, model: Model) -> dict[str, str]:
    return {"sppo.iteration": str(iteration), "sppo.uri": model.uri, "sppo.sha256": model.sha256}
