"""A run on the server: made, and then as the server tells it, with its state and the workflow behind it."""

from __future__ import annotations

from typing import NamedTuple

from sppo.store.uri import last_part
from sppo_pipelines.submission.client import Client, Json
from sppo_pipelines.submission.workflow import Workflow, read

INTERVAL = 10.0
"""Seconds between looks at a run."""
PATIENCE = 30
"""How often a look is tried while a run is followed: about ten minutes without the server."""


class Run(NamedTuple):
    """A run at one moment; `told` is all that the server tells of it but the workflow."""

    run_id: str
    name: str
    state: str
    finished_at: str
    output_uri: str
    workflow: Workflow
    told: Json

    @property
    def too_large(self) -> str:
        """What to do instead of a retry that Kubeflow cannot write; empty if it can."""
        if self.workflow.can_be_retried():
            return ""
        return (
            "its workflow is too large for Kubeflow to retry; submit again with the same output_uri "
            f"({self.output_uri}): that plays only what is missing there"
        )


def look(client: Client, run_id: str, attempts: int = 0) -> Run:
    """The run as it is now.

    The server writes state and workflow at once, and the state is asked for first: what has ended is told whole.

    Raises:
        InfrastructureError, ConfigError: as `Client.get`.
    """
    told = client.get(f"runs/{run_id}", attempts=attempts)
    detail = client.get(f"runs/{run_id}", attempts=attempts, version="v1beta1")
    return Run(
        run_id,
        told.get("display_name", ""),
        told.get("state", ""),
        told.get("finished_at", ""),
        output_uri(told),
        read((detail.get("pipeline_runtime") or {}).get("workflow_manifest", "")),
        told,
    )


def create(client: Client, name: str, experiment_id: str, content: Json) -> Json:
    """A new run, or the one that an earlier request made whose answer was lost.

    Args:
        client: the server.
        name: of the run, and of no other in its experiment.
        experiment_id: of Kubeflow Pipelines.
        content: what else is said of it: what it plays, with which parameters, as whom.

    Raises:
        ConfigError, InfrastructureError: as `Client.get`.
    """
    run, _ = client.ensure(
        lambda: client.newest("runs", "runs", name, experiment_id=experiment_id),
        "runs",
        json={"display_name": name, "experiment_id": experiment_id, **content},
    )
    return run


def output_uri(told: Json) -> str:
    """Where a run that the server tells of writes everything; empty for one of another pipeline."""
    return str(((told.get("runtime_config") or {}).get("parameters") or {}).get("output_uri", "")).rstrip("/")


def short_name(uri: str) -> str:
    """What a run is called in MLflow, by where it writes."""
    return last_part(uri)[:100]
