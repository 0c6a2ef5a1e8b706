"""Why pods do not start: what Argo knows, what a kubeconfig may read, or else the command that tells it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from sppo_pipelines.submission.kubeconfig import WORKLOADS, KubeconfigCluster
from sppo_pipelines.submission.progress import named, waiting_pods
from sppo_pipelines.submission.workflow import Node, Workflow

PATIENCE = timedelta(minutes=2)
"""How long a pod may be pending before it is told."""
INTERVAL = 60.0
"""Seconds between questions to the cluster about one pod."""


class Waiting:
    """What is told of the pods of a run that do not start."""

    def __init__(self) -> None:
        self._cluster: KubeconfigCluster | None = None
        self._asked: dict[str, tuple[float, str | None]] = {}

    def reasons(self, workflow: Workflow) -> dict[str, str]:
        """Why pods do not start that have been pending for long, by what they do.

        Of the shards of a stage the one that has waited longest is told, as they mostly wait for the same.
        """
        told: dict[str, str] = {}
        for pod in waiting_pods(workflow):
            title = named(pod).partition(",")[0]
            if title not in told and pod.started and datetime.now(UTC) - pod.started >= PATIENCE:
                seen = self._seen(workflow.namespace, pod)
                why = _look(workflow.namespace, pod) if seen is None else seen
                if why:
                    told[title] = why
        return told

    def _seen(self, namespace: str, pod: Node) -> str | None:
        """What the cluster says, asked for now and then."""
        when, said = self._asked.get(pod.pod, (-INTERVAL, None))
        if time.monotonic() - when >= INTERVAL:
            self._cluster = self._cluster or KubeconfigCluster()
            said = self._cluster.why(namespace, pod.pod)
            self._asked[pod.pod] = time.monotonic(), said
        return said


def _look(namespace: str, pod: Node) -> str:
    """What Argo says, and the command that shows more."""
    command = f"`kubectl describe pod {pod.pod} --namespace {namespace}`"
    if pod.message:
        return f"{pod.message}; {command} shows more"
    return f"Argo gives no reason; {command} does, or with Kueue `kubectl describe {WORKLOADS} --namespace {namespace}`"
