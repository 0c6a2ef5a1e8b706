"""What the Kubernetes API holds of TrainJobs, their pods and logs; how it changes, and how the API is to fail."""

import copy
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

NAMESPACE = "team"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class Api:
    """What the server holds; every change of it is an event of the watches."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 100
        self.objects: dict[str, dict[str, dict]] = {JOBS: {}, PODS: {}}
        self.events: list[tuple[int, str, str, dict]] = []
        self.logs: dict[str, list[str]] = {}
        self.open_logs: set[str] = set()
        self.requests: list[SimpleNamespace] = []
        self.faults: list[dict] = []
        self.oldest = 0
        self.cut = 0
        self.slow_deletion = 0.0
        self.on_create: Callable[[dict], None] = lambda job: None
        self.installed = True

    def fail(self, where: str, kind: Any, *, times: int = 1, late: bool = False, headers: dict | None = None) -> None:
        """Let the next requests whose "METHOD path" begins with `where` fail.

        `kind` is a status, or "reset" (the connection ends without an answer); `late` ones take effect nevertheless.
        """
        self.faults.append({"where": where, "kind": kind, "times": times, "late": late, "headers": headers or {}})

    def hold(self, where: str, *, late: bool = False) -> threading.Event:
        """Let all requests whose "METHOD path" begins with `where` wait for the event.

        `late` ones take effect before, and are never answered.
        """
        released = threading.Event()
        self.fail(where, released, times=10**6, late=late)
        return released

    def sent(self, where: str) -> list[SimpleNamespace]:
        """The requests whose "METHOD path" begins so; a watch's method is WATCH."""
        return [request for request in self.requests if f"{request.method} {request.path}".startswith(where)]

    def put(self, kind: str, thing: dict) -> dict:
        """Create or change an object."""
        with self.changed:
            held, name = self.objects[kind], thing["metadata"]["name"]
            self.version += 1
            event = "MODIFIED" if name in held else "ADDED"
            thing["metadata"].setdefault("uid", f"uid-{self.version}")
            thing["metadata"]["resourceVersion"] = str(self.version)
            held[name] = thing
            self.events.append((self.version, kind, event, copy.deepcopy(thing)))
            self.changed.notify_all()
            return thing

    def remove(self, kind: str, name: str) -> None:
        """Delete an object at once."""
        with self.changed:
            self.version += 1
            thing = self.objects[kind].pop(name)
            thing["metadata"]["resourceVersion"] = str(self.version)
            self.events.append((self.version, kind, "DELETED", thing))
            self.changed.notify_all()

    def delete(self, name: str, foreground: bool) -> None:
        """Delete a TrainJob; its pods take `slow_deletion` seconds, which it outlasts in the foreground only."""

        def rest() -> None:
            with self.changed:
                for pod in [pod for pod in self.objects[PODS].values() if _job_of(pod) == name]:
                    self.remove(PODS, pod["metadata"]["name"])
                if foreground:
                    self.remove(JOBS, name)

        with self.changed:
            if not foreground:
                self.remove(JOBS, name)
            elif self.slow_deletion:
                job = copy.deepcopy(self.objects[JOBS][name])
                job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                self.put(JOBS, job)
        threading.Timer(self.slow_deletion, rest).start() if self.slow_deletion else rest()

    def collect(self, pod: str) -> None:
        """Delete a pod, and the TrainJobs that then have no owner left.

        As attemptToDeleteItem does in pkg/controller/garbagecollector/garbagecollector.go of Kubernetes 1.34.4: in the
        foreground where the object's finalizers say so, else in the background.
        """
        with self.changed:
            self.remove(PODS, pod)
            there = {pod["metadata"]["uid"] for pod in self.objects[PODS].values()}
            for name, job in list(self.objects[JOBS].items()):
                owners = {owner["uid"] for owner in job["metadata"].get("ownerReferences", [])}
                if owners and not owners & there:
                    self.delete(name, foreground="foregroundDeletion" in job["metadata"].get("finalizers", []))

    def end(self, name: str, kind: str, message: str = "") -> None:
        """Let a TrainJob end as Complete or Failed."""
        job = copy.deepcopy(self.objects[JOBS][name])
        condition = {"type": kind, "status": "True", "reason": f"Jobs{kind}", "message": message}
        job["status"] = {"conditions": [condition]}
        self.put(JOBS, job)

    def pod(self, job: str, index: int, container: int = 0, state: dict | None = None, **fields: Any) -> str:
        """Create or change a pod of a job; `container` counts its restarts."""
        name = f"{job}-node-0-{index}-abcde"
        own = {
            "name": "node",
            "image": "train",
            "imageID": "train",
            "ready": True,
            "restartCount": container,
            "containerID": f"containerd://{name}-{container}",
            "state": state or {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            "lastState": fields.pop("last", {}),
        }
        labels = {"jobset.sigs.k8s.io/jobset-name": job, "batch.kubernetes.io/job-completion-index": str(index)}
        pod = {
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "status": {"phase": "Running", "containerStatuses": [own], **fields},
        }
        self.put(PODS, pod)
        return name

    def write(self, pod: str, *lines: str, end: bool = False) -> None:
        """Let a pod's container log lines; `end` ends its log."""
        with self.changed:
            log = self.logs.setdefault(pod, [])
            for line in lines:
                log.append(f"2026-01-01T00:00:{len(log) // 1000:02}.{len(log) % 1000:03}000001Z {line}")
            (self.open_logs.discard if end else self.open_logs.add)(pod)
            self.changed.notify_all()


def terminated(code: int, reason: str = "Error", second: int = 0, container: str = "") -> dict:
    """The state of a container that ended."""
    at = f"2026-01-01T01:00:{second:02}Z"
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": at, "containerID": container}}


def _job_of(pod: dict) -> str | None:
    return pod["metadata"].get("labels", {}).get("jobset.sigs.k8s.io/jobset-name")
