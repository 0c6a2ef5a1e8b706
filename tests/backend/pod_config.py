"""What a package asks of Kubernetes in particular, put into a pod's patch: driver/k8s.go:133-920."""

from collections.abc import Callable
from typing import Any

from tests.backend.kubernetes import quantity
from tests.backend.package import Spec
from tests.backend.pod_patch import Patch
from tests.backend.resolve import NullParameterError
from tests.backend.values import BackendError, NotPlayedError, as_json, kind

Resolve = Callable[[Spec], Any]
"""Finds the value of a parameter among the inputs of the task's DAG, not of the task: driver/container.go:140-147."""
TOLERATION = {"key", "operator", "value", "effect", "tolerationSeconds"}


def extend(patch: Patch, asked: Spec, resolve: Resolve) -> None:
    """Put into a patch what a component asks of Kubernetes.

    Args:
        patch: is changed.
        asked: of the component.
        resolve: finds the value of a parameter.

    Raises:
        BackendError: for a parameter that is missing or has no such form.
    """
    unknown = sorted(set(asked) - {*FIELDS, "podMetadata"})
    if unknown:
        raise NotPlayedError(f"what is asked of Kubernetes: {', '.join(unknown)}")
    for field, put in FIELDS.items():
        if field in asked:
            put(patch, asked[field], resolve)


def _name(spec: Spec, resource: str, resolve: Resolve) -> str | None:
    """The name of a ConfigMap, a Secret or a volume; None where it is an optional input that is null.

    driver/resolve.go:501-524.
    """
    if f"{resource}NameParameter" not in spec:
        if not spec.get(f"{resource}Name"):
            raise BackendError(f"missing either {resource}Name or {resource}NameParameter in executor config")
        return spec[f"{resource}Name"]
    try:
        name = resolve(spec[f"{resource}NameParameter"])
    except NullParameterError:
        return None
    if kind(name) != "string":
        raise BackendError(f"failed to resolve {resource} name: Expected a string but got: {kind(name)}")
    if not name:
        raise BackendError(f"failed to resolve {resource} name: Expected a non-empty string")
    return name


def _volumes(patch: Patch, asked: list[Spec], resolve: Resolve) -> None:
    """Claims that are mounted: driver/k8s.go:158-175,1233-1292."""
    for mount in asked:
        claim = _name(mount, "pvc", resolve)
        if claim is None:
            raise BackendError("failed to resolve pvc name: the resolved input parameter is null")
        if not mount.get("mountPath"):
            raise BackendError("failed to mount volume, missing mountpath or pvc name")
        where = {"name": claim, "mountPath": mount["mountPath"]}
        patch.add("KUBERNETES_VOLUMES", "volumeMounts", where)
        patch.add("KUBERNETES_VOLUMES", "volumes", {"name": claim, "persistentVolumeClaim": {"claimName": claim}})


def _node_selector(patch: Patch, asked: Spec, resolve: Resolve) -> None:
    """Labels of nodes; a parameter that is no struct is read as none.

    driver/k8s.go:196-224, driver/resolve.go:840-865.
    """
    labels = asked.get("labels", {})
    if "nodeSelectorJson" in asked:
        try:
            value = resolve(asked["nodeSelectorJson"])
        except NullParameterError:
            return
        labels = value if kind(value) == "struct" else {}
        wrong = [each for each in labels.values() if kind(each) != "string"]
        if wrong:
            raise BackendError(
                "failed to resolve node selector: failed to unmarshal k8s Resource json ensure that k8s Resource json "
                f"correctly adheres to its respective k8s spec: json: cannot unmarshal {kind(wrong[0])} into Go value "
                "of type string"
            )
    patch.set("KUBERNETES_NODE_SELECTOR", "nodeSelector", dict(labels))


def _tolerations(patch: Patch, asked: list[Spec], resolve: Resolve) -> None:
    """Tolerations that are written down, or one or a list of them in a parameter: driver/k8s.go:226-301."""
    found: list[dict[str, Any]] = []
    for each in asked:
        if "tolerationJson" not in each:
            found.append(dict(each))
            continue
        try:
            value = resolve(each["tolerationJson"])
        except NullParameterError:
            continue
        if kind(value) not in {"struct", "list"}:
            raise BackendError("encountered unexpected toleration proto value, must be either struct or list type")
        several = value if kind(value) == "list" else [value]
        found += [_toleration(one) for one in several if one or kind(value) == "list"]
    patch.set("KUBERNETES_TOLERATIONS", "tolerations", found)


def _toleration(value: Any) -> dict[str, Any]:
    """A toleration as Go reads it from JSON: unknown fields are dropped, other types are refused."""
    if kind(value) != "struct":
        raise BackendError(f"failed to marshal list toleration to json: cannot unmarshal {as_json(value)}")
    known = {name: each for name, each in value.items() if name in TOLERATION}
    for name, each in known.items():
        if kind(each) != ("number" if name == "tolerationSeconds" else "string"):
            raise BackendError(f"json: cannot unmarshal {kind(each)} into Go struct field Toleration.{name}")
    return known


def _from_keys(resource: str, key: str, reference: str) -> Callable[[Patch, list[Spec], Resolve], None]:
    """Variables from the keys of a Secret or a ConfigMap: driver/k8s.go:349-395 and :445-491."""

    def put(patch: Patch, asked: list[Spec], resolve: Resolve) -> None:
        for source in asked:
            name = _name(source, resource, resolve)
            if name is None:
                continue
            optional = {"optional": source["optional"]} if "optional" in source else {}
            for each in source["keyToEnv"]:
                selector = {"name": name, "key": each[key], **optional}
                patch.add("ENV", "env", {"name": each["envVar"], "valueFrom": {reference: selector}})

    return put


def _from_fields(patch: Patch, asked: list[Spec], resolve: Resolve) -> None:
    """Variables from fields of the pod: driver/k8s.go:522-539."""
    for each in asked:
        source = {"fieldRef": {"fieldPath": each["fieldPath"]}}
        patch.add("ENV", "env", {"name": each["name"], "valueFrom": source})


def _deadline(patch: Patch, asked: str, resolve: Resolve) -> None:
    """The longest time of the pod in seconds: driver/k8s.go:542-545."""
    if int(asked) > 0:
        patch.spec["activeDeadlineSeconds"] = int(asked)


def _empty_dirs(patch: Patch, asked: list[Spec], resolve: Resolve) -> None:
    """Empty folders, in memory too: driver/k8s.go:596-623."""
    for each in asked:
        source = {"medium": each.get("medium", "")}
        if each.get("sizeLimit"):
            quantity(each["sizeLimit"])
            source["sizeLimit"] = each["sizeLimit"]
        patch.always("volumes", {"name": each["volumeName"], "emptyDir": source})
        patch.always("volumeMounts", {"name": each["volumeName"], "mountPath": each["mountPath"]})


def _security(patch: Patch, asked: Spec, resolve: Resolve) -> None:
    """The user, the group, and no capabilities: driver/k8s.go:758-795."""
    context: dict[str, Any] = {name: int(asked[name]) for name in ("runAsUser", "runAsGroup") if name in asked}
    if "runAsNonRoot" in asked:
        context["runAsNonRoot"] = asked["runAsNonRoot"]
    if context.get("runAsUser") == 0 and context.get("runAsNonRoot"):
        raise BackendError("runAsUser=0 (root) is not allowed: runAsNonRoot is true; use a non-root UID instead")
    patch.main["securityContext"] = {**context, "capabilities": {"drop": ["ALL"]}}


FIELDS: dict[str, Callable[[Patch, Any, Resolve], None]] = {
    "pvcMount": _volumes,
    "nodeSelector": _node_selector,
    "tolerations": _tolerations,
    "secretAsEnv": _from_keys("secret", "secretKey", "secretKeyRef"),
    "configMapAsEnv": _from_keys("configMap", "configMapKey", "configMapKeyRef"),
    "fieldPathAsEnv": _from_fields,
    "activeDeadlineSeconds": _deadline,
    "emptyDirMounts": _empty_dirs,
    "securityContext": _security,
}
"""In the driver's order, which is that of the variables in the pod."""
