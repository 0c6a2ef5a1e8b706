"""The manifests: that they parse, hang together, render, and grant little."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path(__file__).parents[2] / "manifests"
KUSTOMIZATIONS = sorted(MANIFESTS.rglob("kustomization.yaml"))


def documents(folder: Path) -> list[dict[str, Any]]:
    files = [path for path in sorted(folder.rglob("*.yaml")) if path.name != "kustomization.yaml"]
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


def render(folder: str) -> dict[str, dict[str, Any]]:
    """The objects that a kustomization makes, by kind."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, to render kustomizations")
    command = ["kubectl", "kustomize", str(MANIFESTS / folder)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {document["kind"]: document for document in yaml.safe_load_all(rendered)}


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(MANIFESTS).parent))
def test_a_kustomization_names_what_exists(path):
    kustomization = yaml.safe_load(path.read_text())
    assert kustomization["kind"] == "Kustomization"
    assert kustomization["resources"]
    assert all((path.parent / resource).exists() for resource in kustomization["resources"])
    beside = {file.name for file in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
    assert beside <= set(kustomization["resources"])


def test_every_object_says_what_it_is():
    objects = documents(MANIFESTS)
    assert {"Namespace", "ServiceAccount", "PersistentVolumeClaim"} <= {item["kind"] for item in objects}
    assert all(item["apiVersion"] and item["metadata"]["name"] for item in objects)


def test_no_role_grants_everything():
    rules = [rule for item in documents(MANIFESTS) if item["kind"].endswith("Role") for rule in item["rules"]]
    assert rules
    assert not [rule for rule in rules if "*" in rule["verbs"] + rule["resources"] + rule["apiGroups"]]
    assert all(rule.get("resourceNames") for rule in rules if "secrets" in rule["resources"])


def test_base_puts_everything_into_its_namespace():
    objects = render("base")
    assert objects["Namespace"]["metadata"]["name"] == "sppo"
    assert {item["metadata"].get("namespace", "sppo") for item in objects.values()} == {"sppo"}


def test_local_joins_standalone_kubeflow_pipelines():
    objects = render("overlays/local")
    assert "Namespace" not in objects
    assert {item["metadata"]["namespace"] for item in objects.values()} == {"kubeflow"}
    assert objects["RoleBinding"]["subjects"][0]["namespace"] == "kubeflow"
    assert objects["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOnce"]
