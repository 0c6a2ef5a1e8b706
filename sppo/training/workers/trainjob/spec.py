"""The TrainJob as an object: its name, what its pods run, and where they run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sppo.errors import ConfigError
from sppo.store.uri import last_part

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
RUNTIME = "torch-distributed"
"""The ClusterTrainingRuntime that Kubeflow Trainer ships for torchrun."""
NODE = "node"
"""Its replicated job, and that job's container."""
RUN_LABEL = ("app.kubernetes.io/name", "sppo-run")
"""On every pod of a run: the network policies of `manifests/` know it by this label."""
NO_SIDECAR = ("sidecar.istio.io/inject", "false")
"""On the training pods: Istio's sidecar would outlive the training, so that its job never ended. In the namespaces of
Kubeflow's profiles it is injected into every pod that does not say so; Kubeflow Pipelines says so of its own."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
FOREGROUND = "foregroundDeletion"
"""Finalizer: the garbage collector keeps a job that it deletes until the pods are gone, so that a new one cannot meet
them (attemptToDeleteItem in Kubernetes' pkg/controller/garbagecollector/garbagecollector.go)."""
DIGEST = "sppo/input-digest"
"""Annotation: what the training is made from. A job with another value is not this training."""
LONGEST_NAME = 40
"""A pod is named <TrainJob>-node-0-<index>-<5 random characters>, and may have 63 characters."""
USER = 10001
"""The user of every image."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Pods:
    """What the training pods are given; the fields without a comment are as KFP's `dsl.TaskConfig` has them."""

    nodes: int
    image: str
    queue: str = ""  # Kueue's local queue
    shared_memory: str = ""  # of /dev/shm, which TaskConfig does not hand over
    hours: int = 24  # after which Kubeflow Trainer ends them
    resources: Json | None = None
    env: list[Json] | None = None
    volumes: list[Json] | None = None
    volume_mounts: list[Json] | None = None
    node_selector: Json | None = None
    tolerations: list[Json] | None = None
    affinity: Json | None = None

    def gpus(self) -> int:
        """GPUs of each pod, from its limits."""
        limits = (self.resources or {}).get("limits") or {}
        return sum(int(count) for name, count in limits.items() if name.endswith("/gpu"))


class Training(NamedTuple):
    """What a TrainJob trains."""

    output_uri: str
    """The run's store, which every node reaches."""
    run: str
    """The run, as a command takes it; see `sppo.preparing.recorded.run_name`."""
    iteration: int
    shards: int
    """The shards whose pairs are trained on."""
    key: str
    """What is committed in the end."""
    digest: str
    """Of everything that the training is made from."""


def stage_command(run: str, iteration: int, shards: int) -> list[str]:
    """What every worker of a training runs; it takes everything else from the store."""
    return ["sppo", "train", run, "--iteration", str(iteration), "--shards", str(shards)]


def command(run: str, iteration: int, shards: int) -> list[str]:
    """What every node runs: torchrun, which finds its peers in the PET_ variables that Kubeflow Trainer sets."""
    return ["torchrun", "--no-python", *stage_command(run, iteration, shards)]


def job_name(output_uri: str, iteration: int, key: str) -> str:
    """The name of an iteration's TrainJob: the same whenever it is asked for, and no other training's.

    It is an RFC 1035 label, as Kubeflow Trainer demands. It shows the end of the URI to people; the digest tells jobs
    apart.
    """
    digest = hashlib.sha256(f"{output_uri.rstrip('/')}\n{key}".encode()).hexdigest()[:12]
    last = re.sub(r"[^a-z0-9]+", "-", last_part(output_uri).lower())
    ending = f"-{iteration}-{digest}"
    readable = f"sppo-{last}"[: LONGEST_NAME - len(ending)].rstrip("-")
    return readable + ending


def owners(environment: Mapping[str, str]) -> list[Json]:
    """The pod that this process is in, as a job's owner: Kubernetes deletes the job once the pod is deleted.

    Kubeflow Pipelines gives each stage the variables (commonEnvs in backend/src/v2/compiler/argocompiler/common.go).
    The reference is not a `controller`, up whose chain Kueue looks for the workload to admit. It has no
    `blockOwnerDeletion`: that takes a right to the pod's finalizers where the admission plugin
    OwnerReferencesPermissionEnforcement is on (Kubernetes' plugin/pkg/admission/gc/gc_admission.go).

    Returns:
        One owner, or none where this is no pod of Kubeflow Pipelines.
    """
    name, uid = environment.get("KFP_POD_NAME"), environment.get("KFP_POD_UID")
    return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}] if name and uid else []


def train_job(
    training: Training,
    pods: Pods,
    namespace: str,
    service_account: str,
    owned_by: Sequence[Json] = (),
) -> Json:
    """The TrainJob of an iteration's training.

    Args:
        training: what is trained.
        pods: what the pods are given.
        namespace: where the job is made.
        service_account: who the pods are; empty leaves the namespace's default.
        owned_by: with whose deletion the job is deleted.

    Raises:
        ConfigError: for a store that the nodes do not share.
    """
    output_uri, iteration = training.output_uri, training.iteration
    if not output_uri.startswith("s3://"):
        raise ConfigError(f"output_uri: {output_uri} is a folder, which nodes do not share; set s3://bucket/prefix")
    labels = {"app.kubernetes.io/part-of": "sppo", "app.kubernetes.io/component": "train"}
    trainer: Json = {
        "image": pods.image,
        "command": command(training.run, iteration, training.shards),
        "numNodes": pods.nodes,
        "numProcPerNode": max(1, pods.gpus()),
        "env": pods.env,
        "resourcesPerNode": _asked(pods.resources),
    }
    job = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": job_name(output_uri, iteration, training.key),
            "namespace": namespace,
            "labels": labels | ({QUEUE_LABEL: pods.queue} if pods.queue else {}),
            "annotations": {DIGEST: training.digest, "sppo/output-uri": output_uri, "sppo/iteration": str(iteration)},
            "finalizers": [FOREGROUND],
            **({"ownerReferences": list(owned_by)} if owned_by else {}),
        },
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": RUNTIME},
            "activeDeadlineSeconds": pods.hours * 3600,
            "trainer": _filled(trainer),
            "runtimePatches": [
                {"manager": "sppo/launch", "trainingRuntimeSpec": _patched(_filled(_pod(pods, service_account)))}
            ],
        },
    }
    return {name: _whole(part) for name, part in job.items()}


def _pod(pods: Pods, service_account: str) -> Json:
    """What the runtime's pod lacks: placement, volumes, identity, and the restricted security profile."""
    volumes, mounts = list(pods.volumes or []), list(pods.volume_mounts or [])
    if pods.shared_memory:
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shared_memory}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    identity = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER}
    return {
        "serviceAccountName": service_account,
        "nodeSelector": pods.node_selector,
        "tolerations": pods.tolerations,
        "affinity": pods.affinity,
        "volumes": volumes,
        "securityContext": {**identity, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": NODE,
                "volumeMounts": mounts,
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            },
        ],
    }


def _patched(pod: Json) -> Json:
    """A pod's spec where a runtime patch has it: JobSet, replicated job, Job, pod."""
    labels = dict([RUN_LABEL, NO_SIDECAR])
    job = {"name": NODE, "template": {"spec": {"template": {"metadata": {"labels": labels}, "spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}


def _asked(resources: Json | None) -> Json:
    """Requests and limits without those that ask for nothing, such as 0 GPUs."""
    parts = ((part, (resources or {}).get(part) or {}) for part in ("requests", "limits"))
    return _filled({part: {name: size for name, size in sizes.items() if str(size) != "0"} for part, sizes in parts})


def _filled(fields: Json) -> Json:
    """Without the fields that are empty."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def _whole(value: Any) -> Any:
    """With whole numbers as such: what passes through KFP arrives as a float, which an integer field refuses."""
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
