"""A pod's log: from Kubeflow's API server, from its web UI, or with a kubeconfig from the cluster itself."""

from __future__ import annotations

import json

from sppo.errors import ConfigError, InfrastructureError
from sppo_pipelines.submission.client import Client
from sppo_pipelines.submission.kubeconfig import KubeconfigCluster
from sppo_pipelines.submission.run import Run
from sppo_pipelines.submission.workflow import Node

_FAILED = '{"error_message":'


class NoLogError(InfrastructureError):
    """A pod's log cannot be read; the message says why."""


def read_log(client: Client, run: Run, pod: Node) -> str:
    """All that a pod's container printed until now, from the first that has it.

    Raises:
        NoLogError: if none has it, or lets it be read.
    """
    failure = ""
    for source in (_of_the_api, _of_the_ui, _of_the_cluster):
        try:
            log = source(client, run, pod)
        except (InfrastructureError, ConfigError) as error:
            failure = failure or str(error)
            continue
        if log is not None:
            return log
    command = f"`kubectl logs {pod.pod} --container main --namespace {run.workflow.namespace}`"
    raise NoLogError(f"{failure or f'{client.host} keeps no logs'}; {command} may show it")


def _of_the_api(client: Client, run: Run, pod: Node) -> str | None:
    """The log that the API server has, or None where it is not reached.

    backend/src/apiserver/server/run_log_server.go, 2.17: it looks for a pod of the name that it is given, but without
    users in no namespace, where it may not; then for the archived log of a node of that name, but not where the nodes
    are compressed; older servers know nodes by their ids only. It does not follow: it looks for `follow` in its route,
    where it cannot be.
    """
    failure = ""
    for name in dict.fromkeys((pod.pod, pod.id)):
        text = client.text(f"/apis/v1alpha1/runs/{run.run_id}/nodes/{name}/log")
        if text is None:
            return None
        log, reason = _split(text)
        if not reason:
            return log
        failure = failure or client.credentials.hide(reason).rpartition(": ")[2]
    raise InfrastructureError(f"the API server has no log of pod {pod.pod} ({failure})")


def _of_the_ui(client: Client, run: Run, pod: Node) -> str | None:
    """The log that the UI has: a gateway leads there, and it forwards no v1alpha1 (frontend/server/app.ts)."""
    place = {"podname": pod.pod, "podnamespace": run.workflow.namespace, "createdat": run.workflow.created[:10]}
    return client.text("/k8s/pod/logs", place | {"runid": run.run_id})


def _of_the_cluster(client: Client, run: Run, pod: Node) -> str | None:
    return KubeconfigCluster().log(run.workflow.namespace, pod.pod)


def _split(text: str) -> tuple[str, str]:
    """A log, and why it is not whole: when the server finds that out it has answered 200, and writes it at the end."""
    log, mark, rest = text.rpartition(_FAILED)
    try:
        told = json.loads(mark + rest) if mark else {}
    except ValueError:
        told = {}
    return (log, str(told["error_message"])) if "error_details" in told else (text, "")
