"""A run as the server tells it: its state, and the workflow behind it."""

from __future__ import annotations

from typing import NamedTuple

from pipelines.submission.client import Client
from pipelines.submission.workflow import Workflow, read

INTERVAL = 10.0
"""Seconds between looks at a run."""
PATIENCE = 30
"""How often a look is tried while a run is followed: about ten minutes without the server."""


class Run(NamedTuple):
    """A run at one moment."""

    run_id: str
    name: str
    state: str
    finished_at: str
    output_uri: str
    workflow: Workflow

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
        ((told.get("runtime_config") or {}).get("parameters") or {}).get("output_uri", ""),
        read((detail.get("pipeline_runtime") or {}).get("workflow_manifest", "")),
    )
