"""The calls of the Kubernetes API that a TrainJob needs, each repeated where the network or the server fails.

What its role must allow is what `Cluster` has methods for: trainjobs create, get, watch, patch, delete; pods list,
watch; pods/log get.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from sppo.errors import ConfigError, InfrastructureError
from sppo.training.workers.trainjob.backoff import seconds_to_wait
from sppo.training.workers.trainjob.spec import GROUP, PLURAL, VERSION, Json

PATIENCE = 600.0
"""Seconds that a request is repeated for, before the server counts as gone."""
TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and to wait for more of an answer."""
WATCH = 300
"""Seconds after which the server ends a watch, which is then begun anew."""
SILENCE = (10.0, 330.0)
"""Seconds to connect for a stream, and to wait for more of it."""
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Missing(Exception):
    """There is no such object."""


class Conflict(Exception):
    """There is another object of that name, or it is no longer as it was when it was read."""


class Expired(Exception):
    """A watch or log ended early; it can be begun anew."""


class Cluster:
    """The API server of the cluster that this process is in, or that KUBECONFIG names."""

    def __init__(self) -> None:
        """Read the credentials; nothing is sent.

        Raises:
            ConfigError: where there is no cluster.
        """
        from kubernetes import client, config

        settings = client.Configuration()
        file = os.environ.get("KUBECONFIG") or "~/.kube/config"
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
                self.namespace = _NAMESPACE.read_text(encoding="utf-8").strip()
            else:
                config.load_kube_config(config_file=file, client_configuration=settings)
                context = config.list_kube_config_contexts(config_file=file)[1]["context"]
                self.namespace = context.get("namespace", "default")
        except config.ConfigException as error:
            raise ConfigError(
                f"training_nodes: more than one needs a cluster, and there is none here ({error}); set training_nodes=1"
            ) from None
        settings.retries = False  # a POST is not repeated by urllib3; here every call is, with one patience
        self.service_account = _service_account(settings.api_key.get("authorization", ""))
        connection = client.ApiClient(settings)
        self._objects, self._core = client.CustomObjectsApi(connection), client.CoreV1Api(connection)
        self._kind = (GROUP, VERSION, self.namespace, PLURAL)

    def create(self, job: Json) -> Json:
        """Make a TrainJob.

        Raises:
            Conflict: if its name is taken, perhaps by a request whose answer was lost.
        """
        return self._call("create", "trainjobs", self._objects.create_namespaced_custom_object, *self._kind, job)

    def get(self, name: str, patience: float = 0) -> Json:
        """A TrainJob.

        Raises:
            Missing: if there is none.
        """
        get = self._objects.get_namespaced_custom_object
        return self._call("get", "trainjobs", get, *self._kind, name, patience=patience)

    def give(self, job: Json, owners: list[Json]) -> Json:
        """Change the owners of a TrainJob that is still as `job` tells; its new state.

        Raises:
            Missing: if it is gone.
            Conflict: if it has changed, is being deleted or is replaced.
        """
        change = {"metadata": {"resourceVersion": job["metadata"]["resourceVersion"], "ownerReferences": owners}}
        patch, name = self._objects.patch_namespaced_custom_object, job["metadata"]["name"]
        return self._call("patch", "trainjobs", patch, *self._kind, name, change)

    def delete(self, job: Json, patience: float = 0) -> None:
        """Have a TrainJob and all that it made deleted; nothing happens if it is gone or replaced."""
        from kubernetes import client

        # In the foreground, the job stays until its pods are gone, so that a new one cannot meet them.
        uid = client.V1Preconditions(uid=job["metadata"]["uid"])
        options = client.V1DeleteOptions(propagation_policy="Foreground", preconditions=uid)
        delete, name = self._objects.delete_namespaced_custom_object, job["metadata"]["name"]
        with suppress(Missing, Conflict):
            self._call("delete", "trainjobs", delete, *self._kind, name, body=options, patience=patience)

    def watch_job(self, job: Json) -> Iterator[tuple[str, Json]]:
        """What happens to a TrainJob from its state `job` on: ADDED, MODIFIED or DELETED, and the new state.

        Raises:
            Expired: when the watch ends; get the job and watch from there.
        """
        version, name = job["metadata"]["resourceVersion"], job["metadata"]["name"]
        watch = self._objects.list_namespaced_custom_object
        return self._stream(
            "trainjobs", watch, *self._kind, resource_version=version, field_selector=f"metadata.name={name}"
        )

    def pods(self, name: str) -> tuple[list[Json], str]:
        """The pods of a TrainJob, and the version of this state, to watch from."""
        found = self._call("list", "pods", self._core.list_namespaced_pod, self.namespace, label_selector=_of(name))
        pods = [self._core.api_client.sanitize_for_serialization(pod) for pod in found.items]
        return pods, found.metadata.resource_version

    def watch_pods(self, name: str, version: str) -> Iterator[tuple[str, Json]]:
        """What happens to the pods of a TrainJob.

        Raises:
            Expired: when the watch ends; list the pods and watch from there.
        """
        watch = self._core.list_namespaced_pod
        return self._stream("pods", watch, self.namespace, resource_version=version, label_selector=_of(name))

    def log_tail(self, pod: str, container: str, lines: int, previous: bool) -> list[str]:
        """The last lines of a container, or of the one before its restart; none if they are gone."""
        try:
            text = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                tail_lines=lines,
                previous=previous,
                _request_timeout=TIMEOUT,
            )
        except self._faults():
            return []
        return str(text).splitlines()

    def log(self, pod: str, container: str, since: int | None) -> Iterator[str]:
        """A container's log as it grows, each line after its time; it ends when the container or the connection does.

        Args:
            pod: the pod's name.
            container: the container's name.
            since: seconds to go back; None for its start.

        Raises:
            Missing: if there is no such pod.
            Expired: if it cannot be read now.
        """
        from kubernetes import watch

        chosen = {"container": container, "timestamps": True, "_request_timeout": SILENCE}
        chosen |= {} if since is None else {"since_seconds": since}
        try:
            yield from watch.Watch().stream(self._core.read_namespaced_pod_log, pod, self.namespace, **chosen)
        except self._faults() as error:
            self._refuse(error, "get", "pods/log")
            raise Expired from None

    def _stream(self, resource: str, function: Callable[..., Any], *place: str, **chosen: str) -> Iterator[Any]:
        from kubernetes import watch

        limits = {"allow_watch_bookmarks": True, "timeout_seconds": WATCH, "_request_timeout": SILENCE}
        try:
            for event in watch.Watch("object").stream(function, *place, **chosen, **limits):
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["raw_object"]
        except self._faults(ValueError, KeyError) as error:  # half a line, or an error without a reason
            self._refuse(error, "watch", resource)
        raise Expired

    def _call(
        self, verb: str, resource: str, function: Callable[..., Any], *place: Any, patience: float = 0, **chosen: Any
    ) -> Any:
        """Send a request until it is answered.

        Raises:
            Missing, Conflict: as `_refuse`.
            InfrastructureError: if the server refuses, or does not answer in time.
            ConfigError: if the object is wrong.
        """
        end = time.monotonic() + (patience or PATIENCE)
        for tries in count(1):
            left = max(1.0, end - time.monotonic())  # the last try has a second
            try:
                return function(*place, **chosen, _request_timeout=tuple(min(limit, left) for limit in TIMEOUT))
            except self._faults() as error:
                self._refuse(error, verb, resource)
                wait = seconds_to_wait(tries, (getattr(error, "headers", None) or {}).get("Retry-After", ""))
                if not _may_pass(error) or time.monotonic() + wait > end:
                    raise InfrastructureError(f"{self._where()}: {verb} {resource}: {_told(error)}") from None
            time.sleep(wait)

    def _refuse(self, error: Exception, verb: str, resource: str) -> None:
        """Raise what repeating cannot mend.

        Raises:
            Missing: where something is not there.
            Conflict: where something else is there.
            InfrastructureError: where a right is missing.
            ConfigError: where the object is wrong, or Kubeflow Trainer is not installed.
        """
        status = getattr(error, "status", None) or 0
        what = f"{self._where()}: {verb} {resource} in namespace {self.namespace}"
        if status == 404 and verb in {"get", "patch", "delete"}:
            raise Missing from None
        if status == 409:
            raise Conflict from None
        if status == 404 and resource == "trainjobs":
            raise ConfigError(f"{what}: the API is not there; install Kubeflow Trainer 2.2 or newer") from None
        if status == 401:
            raise InfrastructureError(f"{what}: the token is not accepted ({_told(error)})") from None
        if status == 403:
            who = f"ServiceAccount {self.service_account}" if self.service_account else "this user"
            raise InfrastructureError(
                f"{what}: {who} may not ({_told(error)}); give it a Role with verb {verb} on {resource}: "
                "add manifests/components/multi-node to your overlay"
            ) from None
        if status in {400, 422} and verb == "create":
            raise ConfigError(f"{what}: refused: {_told(error)}") from None

    def _where(self) -> str:
        return str(self._core.api_client.configuration.host)

    @staticmethod
    def _faults(*more: type[Exception]) -> tuple[type[Exception], ...]:
        import urllib3
        from kubernetes import client

        return client.ApiException, urllib3.exceptions.HTTPError, *more


def _of(name: str) -> str:
    return f"jobset.sigs.k8s.io/jobset-name={name}"


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later: the connection, the load or the server itself failed."""
    status = getattr(error, "status", None) or 0
    return status in {0, 408, 425, 429} or status >= 500


def _told(error: Exception) -> str:
    """What the server says, or else what failed, in one line."""
    body = getattr(error, "body", None)
    try:
        text = json.loads(body)["message"] if body else ""
    except (ValueError, TypeError, KeyError):
        text = ""
    status = getattr(error, "status", None)
    text = text or getattr(error, "reason", None) or type(error).__name__
    line = "".join(filter(str.isprintable, " ".join(str(text).split())))
    return f"{status} {line}"[:400] if status else line[:400]


def _service_account(authorization: str) -> str:
    """The ServiceAccount that a token is of; empty if the token does not tell."""
    parts = authorization.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        return ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
        return str(claims["kubernetes.io"]["serviceaccount"]["name"])
    except (ValueError, KeyError, TypeError):
        return ""
