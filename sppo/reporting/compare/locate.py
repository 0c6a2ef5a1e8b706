"""Where a run lies that is named by its place, or by its id in MLflow."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sppo.errors import ConfigError, InfrastructureError
from sppo.reporting.tracking import without_password
from sppo.store import keys

_OUTPUT_TAG = "sppo.output_uri"
_DIGEST_TAG = "sppo.config_digest"
_PARENT_TAG = "mlflow.parentRunId"
_UNKNOWN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""What MLflow answers to the id of no run, and to what is no id."""


def locate(run: str) -> str:
    """The place of a run's outputs, with its configuration's digits after a `#` where MLflow names it.

    Args:
        run: a folder or `s3://…`, which is the place itself, or `mlflow:RUN_ID`, or a bare run id of MLflow.

    Raises:
        ConfigError: if MLflow knows no such run, or the run is no alignment run, or no server is named.
        InfrastructureError: if MLflow cannot be reached.
    """
    run_id = run.removeprefix("mlflow:")
    if run_id == run and (not re.fullmatch("[0-9a-f]{32}", run) or Path(run).exists()):
        return run
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ConfigError(f"{run}: set MLFLOW_TRACKING_URI to the server that knows this run, or give the run's folder")
    return _output_uri(uri, run_id)


def _output_uri(tracking_uri: str, run_id: str) -> str:
    """What the run is tagged with, or the run that it is nested in."""
    import requests
    import sqlalchemy.exc

    # A person waits: fewer and shorter retries than MLflow's own.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    server, asked = without_password(tracking_uri), run_id
    try:
        client: MlflowClient = MlflowClient(tracking_uri)
        while run_id:
            tags = client.get_run(run_id).data.tags
            if _OUTPUT_TAG in tags:
                digest = keys.short(tags.get(_DIGEST_TAG, ""))
                return f"{tags[_OUTPUT_TAG]}#{digest}" if digest else str(tags[_OUTPUT_TAG])
            run_id = tags.get(_PARENT_TAG, "")
    except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError) as error:
        if getattr(error, "error_code", "") in _UNKNOWN:
            raise ConfigError(f"mlflow:{asked}: MLflow at {server} has no such run; give a parent run's id") from None
        reason = without_password(str(error).splitlines()[0])
        raise InfrastructureError(f"mlflow:{asked}: MLflow at {server} failed ({reason})") from error
    raise ConfigError(f"mlflow:{asked}: no alignment run: neither it nor its parent has the tag {_OUTPUT_TAG}")
