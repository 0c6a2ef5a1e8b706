"""The compiled package: what is handed over to the TrainJob, and what the pod that waits for it keeps."""

import pytest
import yaml
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.profile import hardware_keys

from tests.unit.test_pipeline import Package

SEVERAL = """
training: {gpus: 8, nodes: 4, node_selector: {pool: h100}}
queue: gpus
model_cache: models
stages: {train: {hours: 5, cpu: "3", memory: 7G, shared_memory: 2Gi}}
images: {train: registry.example/train@sha256:abc}
"""


def compiled(folder, profile: str) -> Package:
    (folder / "profile.yaml").write_text(profile)
    compile_pipeline(folder / "sppo.yaml", 3, str(folder / "profile.yaml"))
    return Package(folder / "sppo.yaml")


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Package:
    return compiled(tmp_path_factory.mktemp("several"), SEVERAL)


def launches(package: Package):
    """Each task that launches, with the name of the component that holds it."""
    return [(parent, task) for parent, task in package.tasks() if (package.label(task) or "").startswith("exec-launch")]


def test_all_but_the_environment_is_handed_over_and_not_applied(several):
    assert len(launches(several)) == 3
    for _, task in launches(several):
        passed = several.components[task["componentRef"]["name"]]["taskConfigPassthroughs"]
        assert {entry["field"]: entry.get("applyToTask", False) for entry in passed} == {
            "RESOURCES": False,
            "KUBERNETES_NODE_SELECTOR": False,
            "KUBERNETES_TOLERATIONS": False,
            "KUBERNETES_AFFINITY": False,
            "KUBERNETES_VOLUMES": False,
            "ENV": True,
        }


def test_the_number_of_nodes_reaches_every_iteration(several):
    for parent, task in launches(several):
        channel = task["inputs"]["parameters"]["nodes"]["componentInputParameter"]
        assert several.origin(parent, channel) == "training_nodes"
    ((parent, prepare),) = [(at, task) for at, task in several.tasks() if several.label(task) == "exec-prepare"]
    given = prepare["inputs"]["parameters"]
    assert several.origin(parent, given["training_nodes"]["componentInputParameter"]) == "training_nodes"
    assert given["several_nodes"] == {"runtimeValue": {"constant": True}}
    assert several.ir["root"]["inputDefinitions"]["parameters"]["training_nodes"]["defaultValue"] == 4


def test_what_task_config_does_not_hand_over_is_given_by_the_profile(several):
    for _, task in launches(several):
        constants = {
            name: value["runtimeValue"]["constant"]
            for name, value in task["inputs"]["parameters"].items()
            if "runtimeValue" in value and name != "accelerator_count"
        }
        assert constants == {
            "trainer_image": "registry.example/train@sha256:abc",
            "queue": "gpus",
            "shared_memory": "2Gi",
            "hours": 5,
        }


def test_the_pod_that_waits_is_not_queued_and_shows_as_train(several):
    for _, task in launches(several):
        labels = several.on_kubernetes[several.label(task)]["podMetadata"]["labels"]
        assert labels == {"app.kubernetes.io/name": "sppo-run"}
        assert task["taskInfo"]["name"] == "train"


def test_no_task_hands_anything_over_on_one_node(tmp_path):
    package = compiled(tmp_path, yaml.safe_dump({"training": {"gpus": 8}}))
    assert not launches(package)
    assert "taskConfigPassthroughs" not in package.text
    (prepare,) = [task for _, task in package.tasks() if package.label(task) == "exec-prepare"]
    assert prepare["inputs"]["parameters"]["several_nodes"] == {"runtimeValue": {"constant": False}}


def test_nodes_can_be_given_when_a_run_is_submitted():
    assert hardware_keys()["training_nodes"] == "nodes"
    assert not {"generation_nodes", "ranking_nodes"} & set(hardware_keys())
