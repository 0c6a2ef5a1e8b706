"""The MLflow plugin of the backend: the variables that it puts into pods."""

from typing import Any, NamedTuple

SECRET = "kfp-mlflow-credentials"
"""Where the plugin's credentials are: common/plugins/mlflow/config.go:44."""


class MLflowPlugin(NamedTuple):
    """A plugin as it is configured.

    Attributes:
        endpoint: of its server.
        inject: `injectUserEnvVars`.
        basic: whether its `authType` is `basic-auth`.
        experiment: id of the experiment that it made for the run.
    """

    endpoint: str = "https://mlflow.example"
    inject: bool = True
    basic: bool = False
    experiment: str = "7"

    def template_env(self) -> list[dict[str, Any]]:
        """What the API server puts into the templates of all pods, `inject` or not.

        apiserver/plugins/mlflow/handler.go:163-180, put in by common/util/workflow.go:640-678.
        """
        return [{"name": "KFP_MLFLOW_CONFIG", "value": f'{{"endpoint":"{self.endpoint}"}}'}, *self._credentials()]

    def user_env(self, run_id: str) -> list[dict[str, Any]]:
        """What a driver adds for the user's container: v2/common/plugins/mlflow/handler.go:138-178.

        Args:
            run_id: of the run in MLflow that the plugin made for the task.
        """
        if not self.inject:
            return []
        values = {
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_TRACKING_URI": self.endpoint,
            "MLFLOW_EXPERIMENT_ID": self.experiment,
        }
        return [*({"name": name, "value": value} for name, value in values.items()), *self._credentials()]

    def _credentials(self) -> list[dict[str, Any]]:
        """common/plugins/mlflow/config.go:69-111, with keys as an administrator would name them."""
        keys = {"MLFLOW_TRACKING_USERNAME": "username", "MLFLOW_TRACKING_PASSWORD": "password"} if self.basic else {}
        return [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}} for name, key in keys.items()
        ]
