"""What MLflow shows of a run."""

import os

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tests.cluster.runs import OURS
from tests.cluster.settings import LackError


class Tracked:
    """A connection to the MLflow server that the stages write to."""

    def __init__(self, uri: str) -> None:
        """Connect.

        Raises:
            LackError: if no address is known, or nothing answers there.
        """
        if not uri:
            raise LackError("MLflow's address is not known here: set SPPO_MLFLOW")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self.client = MlflowClient(uri)
        try:
            self.client.search_experiments(max_results=1)
        except MlflowException as error:
            raise LackError(f"MLflow at SPPO_MLFLOW does not answer: {str(error).splitlines()[0]}") from None

    def parent(self, output_uri: str) -> Run:
        """The run in MLflow of what is written there.

        Raises:
            AssertionError: if there is none, or more than one.
        """
        experiment = self.client.get_experiment_by_name(OURS)
        assert experiment is not None, f"MLflow has no experiment {OURS}"
        found = self.client.search_runs([experiment.experiment_id], f"tags.`sppo.output_uri` = '{output_uri}'")
        assert len(found) == 1, f"MLflow has {len(found)} runs with sppo.output_uri {output_uri}"
        return found[0]

    def nested(self, parent: Run) -> list[Run]:
        """The runs of its iterations."""
        condition = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        return list(self.client.search_runs([parent.info.experiment_id], condition))
