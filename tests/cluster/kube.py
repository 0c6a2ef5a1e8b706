"""The Kubernetes cluster behind Kubeflow, as a kubeconfig shows it: pods, TrainJobs, and a node that is given GPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3
from kubernetes import client, config

from sppo.training.workers.trainjob.spec import GROUP, PLURAL, VERSION
from tests.cluster.settings import LackError
from tests.cluster.waiting import until

GPU = "nvidia.com/gpu"
LENT = 2
"""GPUs that a node is given which has none."""
Json = dict[str, Any]


class Kube:
    """A connection to the cluster."""

    def __init__(self, namespace: str) -> None:
        """Connect.

        Raises:
            LackError: if no kubeconfig leads to the cluster, or its pods may not be listed.
        """
        self.namespace = namespace
        try:
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG") or "~/.kube/config")
        except config.ConfigException as error:
            raise LackError(f"no cluster behind KUBECONFIG: {error}") from None
        self.core, self.objects = client.CoreV1Api(), client.CustomObjectsApi()
        try:
            self.version = client.VersionApi().get_code().git_version
            self.core.list_namespaced_pod(namespace, limit=1)
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            said = getattr(error, "reason", error)
            raise LackError(f"pods of the namespace {namespace} cannot be listed: {said}") from None

    def pods(self, run_id: str) -> dict[str, Any]:
        """The pods of a run by name, drivers among them, as far as they are still there."""
        return self._pods(f"pipeline/runid={run_id}")

    def runs(self, name: str, container: str = "main") -> bool:
        """Whether a container of a pod runs."""
        try:
            pod = self.core.read_namespaced_pod(name, self.namespace)
        except client.ApiException as error:
            if error.status == 404:
                return False
            raise
        statuses = pod.status.container_statuses or []
        return any(status.name == container and status.state.running for status in statuses)

    def log(self, pod: str) -> str:
        """What the main container of a pod has printed until now; nothing before it runs."""
        try:
            return str(self.core.read_namespaced_pod_log(pod, self.namespace, container="main"))
        except client.ApiException as error:
            if error.status in {400, 404}:  # its container is being made, or there is no pod yet
                return ""
            raise

    def delete(self, pod: str) -> None:
        """Delete a pod, as `kubectl delete pod` does."""
        self.core.delete_namespaced_pod(pod, self.namespace)

    def working(self, run_id: str) -> set[str]:
        """The pods of a run that have not ended."""
        return {name for name, pod in self.pods(run_id).items() if pod.status.phase in {"Pending", "Running"}}

    def has_trainer(self) -> bool:
        """Whether Kubeflow Trainer's TrainJobs are known here."""
        try:
            self.objects.list_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, limit=1)
        except client.ApiException as error:
            if error.status == 404:
                return False
            raise
        return True

    def train_jobs(self, output_uri: str) -> dict[str, Json]:
        """The TrainJobs of a run by name."""
        found = self.objects.list_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL)["items"]
        return {
            job["metadata"]["name"]: job
            for job in found
            if job["metadata"].get("annotations", {}).get("sppo/output-uri") == output_uri
        }

    def nodes_of(self, train_job: str) -> set[str]:
        """The pods of a TrainJob, also while they outlive it."""
        return set(self._pods(f"jobset.sigs.k8s.io/jobset-name={train_job}"))

    def gpus(self, resource: str = GPU) -> int:
        """GPUs of all nodes together."""
        return sum(int((node.status.allocatable or {}).get(resource, 0)) for node in self.core.list_node().items)

    @contextmanager
    def lent_gpus(self, resource: str = GPU) -> Iterator[None]:
        """Give a node GPUs that it does not have, in name, and take them away again.

        Pods are placed and limited as with real ones. A node's agent makes what is in `capacity` allocatable, and takes
        it away with it (Kubernetes, pkg/kubelet/nodestatus/setters.go, MachineInfo).
        """
        node = self.core.list_node().items[0].metadata.name
        path = f"/status/capacity/{resource.replace('/', '~1')}"
        self._patch(node, [{"op": "add", "path": path, "value": str(LENT)}])
        try:
            until(f"{resource} allocatable on {node}", 120, lambda: self.gpus(resource) or None)
            yield
        finally:
            self._patch(node, [{"op": "remove", "path": path}])
            until(f"{resource} gone from {node}", 120, lambda: self.gpus(resource) == 0)

    def _pods(self, selector: str) -> dict[str, Any]:
        found = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return {pod.metadata.name: pod for pod in found}

    def _patch(self, node: str, operations: list[Json]) -> None:
        self.core.patch_node_status(node, operations)
