"""What tests/cluster does on a cluster, done with the server of these tests: runs, the UI's form, the size of a run."""

import itertools
import json

import pytest
from sppo_pipelines.submission import client
from sppo_pipelines.submission.progress import TaskKey, tasks
from sppo_pipelines.submission.workflow import read

from tests.backend.api_server import root_inputs
from tests.backend.package import Package
from tests.cluster import episodes, form
from tests.cluster.measure import drivers_between, size_of
from tests.cluster.runs import Runs
from tests.cluster.settings import read_settings

from . import argo
from .argo import task
from .conftest import snapshot

PROFILE = "pipelines/sppo_pipelines/profiles/local.yaml"
TRAINED = (task("prepare", end=9), task("train", end=20, iteration=1))
PASSED = snapshot("SUCCEEDED", *TRAINED, *argo.gate(True, 21, 22), finished_at="2026-01-01T00:02:00Z")
RUNNING = snapshot("RUNNING", TRAINED[0], task("train", "Running", start=10, iteration=1))
ENDED = snapshot("FAILED", *TRAINED, terminated=True, finished_at="2026-01-01T00:01:00Z")


@pytest.fixture
def runs(kubeflow, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", (10, 60))  # a package is read, and there are other processes
    environment = {"SPPO_KFP_HOST": kubeflow.address, "SPPO_OUTPUT": "s3://bucket/tests/", "SPPO_PROFILE": PROFILE}
    return Runs(read_settings(environment))


def test_a_run_is_started_and_followed_by_the_command_line(runs, kubeflow):
    kubeflow.script = [RUNNING, PASSED]
    run = runs.submit("smoke", "iterations=2")
    assert (run.run_id, run.output_uri, run.result.code) == ("run-0", f"{runs.folder}/smoke", 0)
    assert runs.folder.startswith("s3://bucket/tests/2")
    (sent,) = kubeflow.sent("POST runs")
    parameters = sent.json["runtime_config"]["parameters"]
    assert sent.json["service_account"] == "sppo-runner"
    assert parameters["output_uri"] == run.output_uri and parameters["experiment"] == "sppo-cluster-test"
    assert parameters["iterations"] == 2 and parameters["config"]["publish.registered_model"] == "sppo-cluster-test"
    followed = runs.follow(run.run_id)
    assert followed.code == 0 and followed.text.endswith("the run succeeded; the gate is passed\n")


def test_a_command_that_starts_no_run_is_a_failure(runs, kubeflow):
    with pytest.raises(AssertionError, match="no run was started:\nerror: "):
        runs.submit("smoke", "iterations=none")
    assert kubeflow.runs == []


def test_a_command_that_takes_too_long_is_a_failure(runs):
    with pytest.raises(AssertionError, match=r"sppo config: not ended within 0\.01 s"):
        runs.sppo("config", seconds=0.01)


def test_the_log_of_a_stage_is_read_by_the_command_line(runs, kubeflow):
    kubeflow.script = [RUNNING]
    kubeflow.runs = [{"run_id": "run-0", "display_name": "my run", **RUNNING}]
    assert runs.logs("run-0", "prepare") == ""
    kubeflow.archived_logs = {argo.pod_name(TRAINED[0]): "try 2 of 3 in 30 s\n"}
    assert "try 2 of 3 in 30 s\n" in runs.logs("run-0", "prepare")


def test_a_task_is_looked_for_until_the_run_ends(runs, kubeflow):
    kubeflow.runs = [{"run_id": "run-0", "display_name": "my run", **RUNNING}]
    kubeflow.script = [RUNNING]
    assert runs.task("run-0", episodes.TRAIN).state == "RUNNING"
    assert runs.task("run-0", TaskKey("evaluate", 1, None)) is None
    kubeflow.script = [PASSED]
    assert runs.task("run-0", episodes.TRAIN).state == "SUCCEEDED"
    with pytest.raises(AssertionError, match="the run has ended: succeeded"):
        runs.task("run-0", TaskKey("evaluate", 1, None))


def test_what_still_goes_on_at_the_end_is_terminated(runs, kubeflow):
    kubeflow.runs = [{"run_id": "run-0", "display_name": "my run", **RUNNING}]
    kubeflow.script, kubeflow.after_terminate = [RUNNING], [ENDED]
    runs.note("run-0", "s3://bucket/run", None, 0)
    runs.stop_all()
    runs.stop_all()
    assert len(kubeflow.sent("POST runs/run-0:terminate")) == 1
    assert runs.look("run-0").workflow.terminated


def test_the_form_of_the_ui_posts_every_parameter_in_its_own_type(runs, kubeflow):
    kubeflow.script = [PASSED]
    before = runs.submit("smoke")
    started = episodes.start_from_form(runs, before, gpus="1")
    first, second = (request.json for request in kubeflow.sent("POST runs"))
    assert set(second) == set(first) | {"description"}
    assert second["pipeline_version_reference"] == first["pipeline_version_reference"]
    sent, posted = first["runtime_config"]["parameters"], second["runtime_config"]["parameters"]
    pools = episodes.placed("1")
    assert {name: posted[name] for name in sent} == sent and {name: posted[name] for name in pools} == pools
    declared = Package(kubeflow._version("version-0")[1]["pipeline_spec"]["pipeline_spec"], {})
    assert root_inputs(declared, posted) == posted, "the server takes it, and it leaves nothing to defaults"
    assert (posted["training_nodes"], posted["base_model"]) == (1, "")
    assert started.run.result.code == 0 and started.parameters == posted


def test_a_default_is_posted_as_it_is_shown():
    kinds = {"STRING": "cpu", "NUMBER_INTEGER": 3.0, "STRUCT": {"a": [1]}, "LIST": []}
    declared = {kind: {"parameterType": kind, "defaultValue": value} for kind, value in kinds.items()}
    version = {"pipeline_id": "p", "pipeline_version_id": "version-7"}
    body = form.request({**declared, "asked": {"parameterType": "STRING"}}, {"asked": "s3://b/r"}, version, "e")
    assert body["runtime_config"]["parameters"] == {**kinds, "asked": "s3://b/r"}
    assert isinstance(body["runtime_config"]["parameters"]["NUMBER_INTEGER"], int)


# The size of a run


def test_the_size_of_a_workflow_does_not_depend_on_how_argo_stores_it():
    plain, packed = (read(argo_text(compressed=compressed)) for compressed in (False, True))
    assert size_of(plain) == size_of(packed)
    found = size_of(plain)
    assert found.nodes == len(plain.nodes) and found.again == 2, "the second attempt, and all that Argo calls one"
    assert found.packed < found.plain < len(argo_text(compressed=False))
    assert found.whole == found.specification + found.packed


def argo_text(compressed):
    again = task("train", "Succeeded", start=10, end=20, iteration=1, messages=["pod deleted", "", ""])
    return json.dumps(argo.manifest(TRAINED[0], again, compressed=compressed, padding=500))


DRIVER = ("", "(0)")
STAGE = ("", "(0)", "(0).executor", "(0).executor(0)")
"""What Argo makes of a task: a Retry and its attempt, and in that of a stage the same of its pod."""


def chain(*names: str, retried: bool = True) -> dict:
    """A workflow whose tasks began one after the other, each a second after the one before."""
    nodes: dict[str, dict] = {}
    before = ""
    for second, name in enumerate(names):
        parts = [f"{name}{part}" for part in (DRIVER if name.endswith("-driver") else STAGE)]
        if not retried:
            parts = [part.replace("(0)", "") for part in parts if not part.endswith("(0)")]
        for part in parts:
            kind = "Pod" if part == parts[-1] else "Retry"
            ended = f"2026-01-01T00:00:{second:02}Z"
            nodes[part] = {"id": part, "name": f"sppo.{part}", "type": kind, "finishedAt": ended, "children": []}
        links = [*itertools.pairwise(parts), *([(before, parts[0])] if before else [])]
        for parent, child in links:
            nodes[parent]["children"].append(child)
        # What comes after a task follows its pod, or the attempt at the group that the pod is in.
        before = parts[1] if retried else parts[-1]
    return {"metadata": {"name": "sppo"}, "status": {"nodes": nodes}}


@pytest.mark.parametrize("retried", [True, False])
def test_drivers_in_a_row_are_counted_from_the_end_of_a_stage(retried):
    names = ["evaluate", "continue-after-1-driver", "self-play-2-driver", "generate-driver", "generate", "rank-driver"]
    workflow = read(json.dumps(chain(*names, "rank", retried=retried)))
    assert drivers_between(workflow, "evaluate", "generate") == 3
    assert drivers_between(workflow, "generate", "rank") == 1
    with pytest.raises(ValueError, match="no rank waits for a evaluate"):
        drivers_between(workflow, "evaluate", "rank")


def test_of_two_ways_to_a_stage_the_longer_one_counts():
    workflow = chain("evaluate", "a-driver", "b-driver", "generate")
    workflow["status"]["nodes"]["evaluate(0)"]["children"].append("b-driver")
    assert drivers_between(read(json.dumps(workflow)), "evaluate", "generate") == 2


def test_what_comes_after_a_group_waits_for_the_last_stage_in_it():
    nodes = chain("shards", "train-driver", "train")["status"]["nodes"]
    for second, stage in enumerate(("rank", "generate")):
        name = f"shards(0).{stage}(0).executor(0)"
        ended = f"2026-01-01T00:00:{9 - second:02}Z"
        nodes[name] = {"id": name, "name": f"sppo.{name}", "type": "Pod", "finishedAt": ended}
    nodes.pop("shards(0).executor(0)")
    workflow = read(json.dumps({"metadata": {"name": "sppo"}, "status": {"nodes": nodes}}))
    assert drivers_between(workflow, "rank", "train") == 1
    with pytest.raises(ValueError, match="no train waits for a generate"):
        drivers_between(workflow, "generate", "train")


def test_a_workflow_that_the_server_tells_has_the_tasks_that_the_tests_look_for():
    begun = {each.key for each in tasks(read(argo_text(compressed=True)))}
    assert {episodes.PREPARE, episodes.TRAIN} <= begun
