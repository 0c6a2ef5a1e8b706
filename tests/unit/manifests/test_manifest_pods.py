"""What every pod may and must do: Restricted Pod Security, exact images, resources, probes, and room in the quota."""

import copy
import re
import subprocess
from fractions import Fraction

import pytest
from sppo_components.images import image
from sppo_pipelines.profile import load_profile

SERVERS = {"Deployment", "StatefulSet"}
ALLOWED_VOLUMES = {"name", "configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
EXACT = re.compile(r"[^\s:@]+(/[^\s:@]+)+(:v?\d+\.\d+[^\s:@]*|@sha256:[0-9a-f]{64})")
UNITS = {"": 1, "m": Fraction(1, 1000), "M": 10**6, "G": 10**9, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# What is asked for on a machine before anything of this repository.
BESIDE = {
    # kubeadm's: API server 250m, controller manager 200m, scheduler, etcd, two of CoreDNS and kindnet 100m each.
    "Kubernetes (kind)": ("950m", "290Mi"),
    # manifests/kustomize/env/platform-agnostic of 2.17, with its database, object store and workflow controller.
    "Kubeflow Pipelines": ("674m", "3126Mi"),
    # backend/src/v2/compiler/argocompiler/argo.go, driverResources.
    "a driver's pod": ("100m", "64Mi"),
}


def violations(spec):
    """What the Restricted profile of the Pod Security Standards refuses."""
    whole = spec.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if spec.get(key)]
    found += [f"volume {v['name']}" for v in spec.get("volumes", []) if not v.keys() <= ALLOWED_VOLUMES]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        own = container.get("securityContext", {})
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            found.append("privileges")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            found.append("capabilities")
        if not own.get("runAsNonRoot", whole.get("runAsNonRoot")):
            found.append("runAsNonRoot")
        if own.get("runAsUser", whole.get("runAsUser")) in {None, 0}:
            found.append("runAsUser")
        if own.get("seccompProfile", whole.get("seccompProfile")) != {"type": "RuntimeDefault"}:
            found.append("seccompProfile")
        if own.get("procMount", "Default") != "Default" or any("hostPort" in p for p in container.get("ports", [])):
            found.append("host")
    return found


def quantity(text):
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(text)).groups()
    return Fraction(number) * UNITS[unit]


def test_every_pod_is_restricted(rendered):
    pods = list(rendered.pods())
    assert {"mlflow", "postgresql", "sppo-model-cache"} <= {pod.owner for pod in pods}
    for pod in pods:
        assert violations(pod.spec) == [], pod.owner
        assert pod.spec["automountServiceAccountToken"] is False
        # A Service called mlflow would set MLFLOW_PORT, the server's own option.
        assert pod.spec["enableServiceLinks"] is False
        assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in pod.containers)


SPOILS = {
    "hostNetwork": lambda pod: pod.update(hostNetwork=True),
    "volume node": lambda pod: pod["volumes"].append({"name": "node", "hostPath": {"path": "/"}}),
    "privileges": lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
    "capabilities": lambda pod: pod["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    "runAsNonRoot": lambda pod: pod["securityContext"].update(runAsNonRoot=False),
    "runAsUser": lambda pod: pod["containers"][0]["securityContext"].update(runAsUser=0),
    "seccompProfile": lambda pod: pod["securityContext"].pop("seccompProfile"),
    "host": lambda pod: pod["containers"][0]["ports"].append({"containerPort": 1, "hostPort": 1}),
}


@pytest.mark.parametrize("rule", SPOILS)
def test_the_rules_see_what_breaks_them(mlflow, rule):
    spoilt = copy.deepcopy(mlflow)
    SPOILS[rule](spoilt)
    assert violations(spoilt) == [rule]


def test_the_namespace_of_the_services_enforces_the_same(rendered):
    (namespace,) = rendered.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_image_is_exact(rendered):
    for pod in rendered.pods():
        assert all(EXACT.fullmatch(container["image"]) for container in pod.containers), pod.owner


def test_who_resumes_runs_is_the_image_of_prepare(rendered):
    """The smallest image that has what `sppo keep-going` imports; tests/unit/submission holds it against that."""
    pods = [pod for pod in rendered.pods() if pod.owner == "sppo-keep-going"]
    assert len(pods) == bool(rendered.of("CronJob"))
    assert [container["image"] for pod in pods for container in pod.containers] == [image("prepare")] * len(pods)


@pytest.mark.parametrize("name", ["mlflow:3.1", "ghcr.io/mlflow/mlflow", "ghcr.io/mlflow/mlflow:latest", "a/b:v3"])
def test_what_is_no_exact_image(name):
    assert not EXACT.fullmatch(name)


def test_every_container_has_resources_and_every_server_probes(rendered):
    for pod in rendered.pods():
        for container in pod.containers:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert quantity(container["resources"]["requests"]["memory"]) <= quantity(
                container["resources"]["limits"]["memory"]
            )
        if pod.kind in SERVERS:
            for container in pod.spec["containers"]:
                ports = {port["name"] for port in container["ports"]}
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    asked = container[probe].get("httpGet") or container[probe].get("tcpSocket") or {"port": None}
                    assert asked["port"] in {*ports, None}
                    assert ("exec" in container[probe]) == (asked["port"] is None)


def test_the_quota_has_room_for_an_update_of_everything(rendered):
    hard = rendered.one("ResourceQuota", "services")["spec"]["hard"]
    pods = [pod for pod in rendered.pods() if pod.namespace == "sppo"]
    for name in ("requests.cpu", "requests.memory", "limits.memory"):
        part, resource = name.split(".")
        asked = sum(
            quantity(container["resources"][part][resource]) * (pod.copies + 1)
            for pod in pods
            for container in pod.containers
        )
        assert asked <= quantity(hard[name])
    claims = [claim for item in rendered.of("StatefulSet") for claim in item["spec"]["volumeClaimTemplates"]]
    assert sum(quantity(claim["spec"]["resources"]["requests"]["storage"]) for claim in claims) <= quantity(
        hard["requests.storage"]
    )


def test_the_profile_local_finds_room_beside_the_overlay_local(overlay, manifests):
    profile = load_profile("local")
    assert profile.model_cache == "sppo-model-cache"
    largest = ("1", "6G")
    for _, stage in profile.stages:
        assert quantity(stage.cpu) <= quantity(largest[0])
        assert quantity(stage.memory) <= quantity(largest[1])
    asked = [*BESIDE.values(), largest]
    for pod in overlay("local").pods():
        for container in pod.containers:
            requests = container["resources"]["requests"]
            asked += [(requests["cpu"], requests["memory"])] * pod.copies
    cpu, memory = (sum(map(quantity, column)) for column in zip(*asked, strict=True))
    page = (manifests.parent / "docs" / "cluster.md").read_text()
    cores, gigabytes = re.search(r"machine of (\d+) CPUs and\s(\d+) GB", page).groups()
    assert cpu <= int(cores) < cpu + 1, "one stage at a time"
    assert memory <= int(gigabytes) * 10**9


def test_the_hand_over_of_the_model_cache_says_whether_it_worked(rendered, tmp_path):
    (container,) = rendered.one("Job", "sppo-model-cache")["spec"]["template"]["spec"]["containers"]
    for folder, code, words in ((tmp_path, 0, "is writable"), (tmp_path / "missing", 1, "is not writable")):
        command = [part.replace("/cache", str(folder)) for part in [*container["command"], *container["args"]]]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, words in done.stdout) == (code, True)
    assert not list(tmp_path.iterdir())
