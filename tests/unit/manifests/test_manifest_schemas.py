"""Every object against the schema of the newest Kubernetes, and the queue against what Kueue asks for."""

import os
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import SchemaNotFoundError, ValidationError
from sppo_pipelines.profile import SHIPPED, load_profile

from tests.conftest import documents

# Kinds that Kubernetes does not ship, with the fields that their owners require.
CUSTOM = {
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): {"clusterQueue"},
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): {"namespaceSelector", "resourceGroups"},
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): {"nodeLabels"},
}


def check(item):
    try:
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    except SchemaNotFoundError:
        assert CUSTOM[item["apiVersion"], item["kind"]] <= item["spec"].keys()


def test_every_object_is_valid(rendered):
    assert len(rendered.objects) > 20
    for item in rendered.objects:
        check(item)
    identities = [
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in rendered.objects
    ]
    assert len(set(identities)) == len(identities)


def test_a_misspelt_field_is_refused(rendered):
    server = rendered.one("Deployment", "mlflow")
    with pytest.raises(ValidationError, match="replica"):
        check({**server, "spec": {**server["spec"], "replica": 1}})
    with pytest.raises(KeyError):
        check({"apiVersion": "kueue.x-k8s.io/v1alpha1", "kind": "LocalQueue", "metadata": {"name": "x"}, "spec": {}})


def test_everything_has_a_namespace_but_what_belongs_to_none(rendered):
    for item in rendered.objects:
        assert ("namespace" not in item["metadata"]) == (item["kind"] in {"Namespace", "PriorityClass"})
        assert item["metadata"].get("namespace", "sppo") in {"sppo", rendered.runs}


def test_the_queue_of_a_profile_leads_to_its_pools(manifests):
    cluster = list(yaml.safe_load_all((manifests / "components/kueue/cluster.yaml").read_text()))
    local = yaml.safe_load((manifests / "components/kueue/local-queue.yaml").read_text())
    for item in [*cluster, local]:
        check(item)
    flavors = {item["metadata"]["name"]: item["spec"] for item in cluster if item["kind"] == "ResourceFlavor"}
    queue = next(item for item in cluster if item["kind"] == "ClusterQueue")
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (group,) = queue["spec"]["resourceGroups"]
    assert {flavor["name"] for flavor in group["flavors"]} == flavors.keys()
    for flavor in group["flavors"]:
        assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]

    profiles = [load_profile(path.stem) for path in SHIPPED.glob("*.yaml")]
    assert {profile.queue for profile in profiles} == {"", local["metadata"]["name"]}
    pools = [pool for profile in profiles for pool in (profile.generation, profile.ranking, profile.training)]
    for selector in [pool.node_selector for pool in pools if pool.node_selector]:
        assert selector in [flavor["nodeLabels"] for flavor in flavors.values()]


def test_with_the_queue_no_quota_counts_the_pods_that_wait_for_it(rendered):
    """A ResourceQuota counts gated pods: one can hold what an admitted TrainJob's next pod needs, and wait for it."""
    counting = [item for item in rendered.of("ResourceQuota") if "requests.nvidia.com/gpu" in item["spec"]["hard"]]
    assert [item["metadata"]["name"] for item in counting] == ([] if rendered.of("LocalQueue") else ["sppo-gpus"])


def test_make_manifests_renders_every_overlay(mlflow, manifests, tmp_path):
    make = ["make", "--directory", str(manifests.parent), f"MANIFESTS={tmp_path}", "manifests"]
    subprocess.run(make, check=True, capture_output=True)
    names = {path.name for path in (manifests / "overlays").iterdir()}
    assert {path.stem for path in tmp_path.glob("*.yaml")} == names
    assert all(len(documents(path.read_text())) > 20 for path in tmp_path.glob("*.yaml"))


def test_make_manifests_says_what_it_needs(manifests, tmp_path):
    for tool in ("make", "bash", "mkdir", "awk"):
        found = next(Path(folder, tool) for folder in os.defpath.split(":") if folder and Path(folder, tool).exists())
        (tmp_path / tool).symlink_to(found)
    make = [str(tmp_path / "make"), "--directory", str(manifests.parent), f"MANIFESTS={tmp_path}", "manifests"]
    done = subprocess.run(make, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "make manifests needs kubectl or kustomize on the PATH" in done.stderr
