"""The cluster that a kubeconfig names, asked for a pod's log, or why it does not start."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

TIMEOUT = (3.0, 5.0)
"""Seconds to connect to the cluster, and to wait for its answer."""
WORKLOADS = "workloads.kueue.x-k8s.io"
"""What Kueue admits; kubectl's name for it."""
_KUEUE_VERSIONS = ("v1beta2", "v1beta1")


class KubeconfigCluster:
    """The cluster of the kubeconfig, if there is one; it need not be the one that the run is on."""

    def __init__(self) -> None:
        self._core: Any = None
        files = os.environ.get("KUBECONFIG") or "~/.kube/config"
        if not any(Path(file).expanduser().is_file() for file in files.split(os.pathsep)):
            return
        import yaml
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            config.load_kube_config(config_file=files, client_configuration=settings)
        except (config.ConfigException, yaml.YAMLError):
            return
        settings.retries = False
        connection = client.ApiClient(settings)
        self._core, self._objects = client.CoreV1Api(connection), client.CustomObjectsApi(connection)

    def why(self, namespace: str, name: str) -> str | None:
        """Why a pod does not start: its newest event, or what Kueue says if it holds the pod.

        Returns:
            The reason; empty if the pod has started, which Argo may tell late; None if it cannot be told.
        """
        pod = self._core and self._ask(self._core.read_namespaced_pod, name, namespace)
        if pod is None:
            return None
        if pod.status and pod.status.phase not in {None, "Pending"}:
            return ""
        if any(gate.name.startswith("kueue.x-k8s.io/") for gate in pod.spec.scheduling_gates or []):
            return self._workload(namespace, pod.metadata.uid)
        chosen = f"involvedObject.uid={pod.metadata.uid}"
        found = self._ask(self._core.list_namespaced_event, namespace, field_selector=chosen)
        events = sorted(found.items if found else [], key=_when)
        return f"{events[-1].reason}: {events[-1].message}" if events else None

    def log(self, namespace: str, name: str) -> str | None:
        """What the main container of a pod printed; None if the pod is not there or may not be read."""

        def read(*place: str, **chosen: Any) -> bytes:  # the body too: a connection can break there
            data: bytes = self._core.read_namespaced_pod_log(*place, **chosen, _preload_content=False).data
            return data

        data = self._core and self._ask(read, name, namespace, container="main")
        return None if data is None else data.decode(errors="replace")

    def _workload(self, namespace: str, uid: str) -> str:
        label = f"kueue.x-k8s.io/job-uid={uid}"
        for version in _KUEUE_VERSIONS:
            listed = self._objects.list_namespaced_custom_object
            found = self._ask(listed, "kueue.x-k8s.io", version, namespace, "workloads", label_selector=label)
            for workload in (found or {}).get("items", []):
                for condition in (workload.get("status") or {}).get("conditions", []):
                    if condition["type"] in {"QuotaReserved", "Admitted"} and condition["status"] != "True":
                        return f"Kueue holds it: {condition.get('message') or condition['reason']}"
        return f"Kueue holds it; `kubectl describe {WORKLOADS} --namespace {namespace} --selector {label}` says why"

    @staticmethod
    def _ask(function: Any, *place: str, **chosen: str | bool) -> Any:
        """An answer of the cluster's, or None where it does not know the thing, or this user may not read it."""
        import urllib3
        from kubernetes import client

        try:
            return function(*place, **chosen, _request_timeout=TIMEOUT)
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return None


def _when(event: Any) -> datetime:
    when: datetime = event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return when
