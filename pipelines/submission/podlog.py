"""A pod's log, from Kubeflow's API server or from its web UI, also after the pod is gone."""

from __future__ import annotations

import json

from pipelines.submission.client import Client
from pipelines.submission.run import Run
from pipelines.submission.workflow import Node
from sppo.errors import ConfigError, InfrastructureError

_FAILED = '{"error_message":'


class NoLogError(InfrastructureError):
    """A pod's log cannot be read; the message says why."""


def read_log(client: Client, run: Run, pod: Node) -> str:
    """All that a pod's container printed until now.

    Raises:
        NoLogError: if there is no log, or no right to read it.
    """
    try:
        log = _of_the_api(client, run, pod)
        return _of_the_ui(client, run, pod) if log is None else log
    except (InfrastructureError, ConfigError) as error:
        raise NoLogError(str(error)) from None


def _of_the_api(client: Client, run: Run, pod: Node) -> str | None:
    """The log that the API server has, or None where it is not reached.

    It looks for a pod of the name that it is given, and then for the archived log of a node of that name; older servers
    know nodes by their ids only (2.17, backend/src/apiserver/server/run_log_server.go). It does not follow: it looks
    for `follow` in its route, where it cannot be.
    """
    failure = ""
    for name in dict.fromkeys((pod.pod, pod.id)):
        text = client.text(f"/apis/v1alpha1/runs/{run.run_id}/nodes/{name}/log")
        if text is None:
            return None
        log, reason = _split(text)
        if not reason:
            return log
        failure = failure or client.credentials.hide(reason)[:300]
    raise InfrastructureError(failure)


def _of_the_ui(client: Client, run: Run, pod: Node) -> str:
    """The log that the UI has: a gateway leads there, and it forwards no v1alpha1 (frontend/server/app.ts)."""
    place = {"podname": pod.pod, "podnamespace": run.workflow.namespace, "createdat": run.workflow.created[:10]}
    text = client.text("/k8s/pod/logs", place | {"runid": run.run_id})
    if text is None:
        raise InfrastructureError(f"{client.host} keeps no log of pod {pod.pod}")
    return text


def _split(text: str) -> tuple[str, str]:
    """A log, and why it is not whole: when the server finds that out it has answered 200, and writes it at the end."""
    log, mark, rest = text.rpartition(_FAILED)
    try:
        told = json.loads(mark + rest) if mark else {}
    except ValueError:
        told = {}
    return (log, str(told["error_message"])) if "error_details" in told else (text, "")
