"""The pod of a container's task: the workflow's template with the driver's patch merged into it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.backend.kubernetes import merge, validate
from tests.backend.metadata import Artifact
from tests.backend.package import Spec

SCRATCH = {
    "kfp-launcher": "/kfp-launcher",
    "gcs-scratch": "/gcs",
    "s3-scratch": "/s3",
    "minio-scratch": "/minio",
    "dot-local-scratch": "/.local",
    "dot-cache-scratch": "/.cache",
    "dot-config-scratch": "/.config",
}
"""Volumes of every pod and where they are mounted: argocompiler/container.go:52-70,472-569."""


class Pod(NamedTuple):
    """A pod of a stage as the cluster runs it.

    Attributes:
        stage: name of the component.
        path: place in the run, as `self-play/for-loop-1/[0]/generate`.
        inputs: parameters, with the component's defaults.
        artifacts: by name.
        labels: of the pod.
        annotations: of the pod.
        spec: as Kubernetes has it.
        retry: Argo's strategy.
    """

    stage: str
    path: str
    inputs: dict[str, Any]
    artifacts: dict[str, list[Artifact]]
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: dict[str, Any]
    retry: dict[str, Any]

    @property
    def main(self) -> dict[str, Any]:
        """The stage's container."""
        (main,) = [each for each in self.spec["containers"] if each["name"] == "main"]
        return main

    @property
    def limits(self) -> dict[str, str]:
        return self.main.get("resources", {}).get("limits", {})

    @property
    def requests(self) -> dict[str, str]:
        return self.main.get("resources", {}).get("requests", {})

    @property
    def env(self) -> dict[str, str]:
        """Variables by name: the value, or where it comes from, as `configMapKeyRef sppo-settings HF_ENDPOINT`."""
        return {each["name"]: describe(each) for each in self.main["env"]}


def describe(variable: Mapping[str, Any]) -> str:
    """A variable's value, or where it comes from."""
    for reference, source in variable.get("valueFrom", {}).items():
        return " ".join([reference, *(source[name] for name in ("name", "key", "fieldPath") if name in source)])
    return variable.get("value", "")


def template(plugin_env: list[dict[str, Any]], retried: bool) -> dict[str, Any]:
    """A pod before the patch: argocompiler/container.go:455-572, and Argo's own container in front.

    Argo's own variables (argo/workflowpod.go:340-375) are left out: nobody else sets them.

    Args:
        plugin_env: what a plugin puts into templates.
        retried: whether the task has a retry policy (argocompiler/container.go:586-592).
    """
    env = [
        {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "KFP_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        *([{"name": "KFP_RETRY_INDEX", "value": "0"}] if retried else []),
        *plugin_env,
    ]
    main = {
        "name": "main",
        "image": "gcr.io/ml-pipeline/should-be-overridden-during-runtime",
        "env": env,
        "envFrom": [{"configMapRef": {"name": "metadata-grpc-configmap", "optional": True}}],
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in SCRATCH.items()],
        # argocompiler/security_context.go:163-174
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "containers": [{"name": "wait"}, main],
        "volumes": [{"name": name, "emptyDir": {}} for name in SCRATCH],
        # argocompiler/security_context.go:147-161; a template's context stands in place of the workflow's.
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    }


def make_pod(path: str, patch: dict[str, Any], plugin_env: list[dict[str, Any]], retried: bool) -> dict[str, Any]:
    """The specification that Argo creates (argo/workflowpod.go:406-418), if the API server takes it.

    Raises:
        BackendError: if it does not.
    """
    spec = merge(template(plugin_env, retried), patch)
    validate(path, spec)
    return spec


def labels(asked: Spec, run_id: str) -> dict[str, str]:
    """Of a pod: the workflow's, and over them its own (argo/workflowpod.go:906-915).

    argocompiler/argo.go:173-180, argocompiler/container.go:748-804, apiserver/template/v2_template.go:427.
    """
    fixed = {"pipelines.kubeflow.org/v2_component": "true", "pipeline/runid": run_id}
    return {**fixed, **asked.get("podMetadata", {}).get("labels", {})}


def annotations(asked: Spec) -> dict[str, str]:
    """Of a pod, as the labels; Istio's sidecar is switched off: apiserver/template/v2_template.go:416-417."""
    fixed = {"pipelines.kubeflow.org/v2_component": "true", "sidecar.istio.io/inject": "false"}
    return {**fixed, **asked.get("podMetadata", {}).get("annotations", {})}


def retry_strategy(task: Spec) -> dict[str, Any]:
    """How often Argo tries, and after what.

    argocompiler/container.go:618-689 merged over the defaults of Kubeflow's ConfigMap
    (manifests/kustomize/third-party/argo/base/workflow-controller-configmap-patch.yaml:56-59), whose policy stays.
    """
    default = {"limit": "2", "retryPolicy": "OnError"}
    policy = task.get("retryPolicy")
    if policy is None:
        return default
    backoff = {
        "duration": policy.get("backoffDuration", "0s").removesuffix("s"),
        "factor": f"{policy.get('backoffFactor', 0):g}",
        "maxDuration": policy.get("backoffMaxDuration", "0s").removesuffix("s"),
    }
    return {**default, "limit": str(policy.get("maxRetryCount", 0)), "backoff": backoff}
