"""The smoke run to its end, and a run that the web UI's form starts over what it committed."""

import re

import pytest
from kubernetes.utils import parse_quantity
from sppo_pipelines.profile import load_profile
from sppo_pipelines.submission.progress import gate, tasks

from sppo.store import keys
from sppo.training.workers.trainjob.spec import RUN_LABEL, USER
from tests.backend.expected import POOLS
from tests.cluster.kube import GPU
from tests.conftest import lineage_of


def test_the_smoke_run_ends_with_0_and_its_gate_is_read(smoke, runs, seen):
    assert smoke.result.code == 0
    assert smoke.result.text.rstrip().endswith("the run succeeded; the gate is passed")
    run = runs.look(smoke.run_id)
    assert (run.state, gate(run.workflow)) == ("SUCCEEDED", True)
    seen(f"exit code 0 after {smoke.seconds / 60:.0f} minutes")


def test_mlflow_shows_the_smoke_run_as_finished(smoke, tracked, seen):
    parent = tracked.parent(smoke.output_uri)
    nested = tracked.nested(parent)
    assert [run.info.status for run in (parent, *nested)] == ["FINISHED", "FINISHED"]
    assert parent.data.tags["sppo.kfp_run_id"] == smoke.run_id
    assert 0 <= parent.data.metrics["eval/win_rate_vs_base"] <= 1
    seen(f"FINISHED, {len(parent.data.metrics)} figures")


def test_the_report_of_the_smoke_run_is_in_its_store(smoke, stored, seen):
    lineage = lineage_of(smoke.output_uri)
    page = stored.text(smoke.output_uri, lineage.report_key, keys.REPORT_FILE)
    assert page.lower().startswith("<!doctype html>") and smoke.output_uri in page
    assert stored.manifest(smoke.output_uri, lineage.published_key) is not None
    seen(f"{keys.REPORT_FILE}, {len(page) / 1024:.0f} KiB")


def test_a_run_that_the_form_starts_finds_what_is_committed(from_form, smoke, runs, stored, seen):
    assert smoke.result.code == 0, "its values are typed in, and its outputs are found"
    assert from_form.run.result.code == 0
    assert from_form.parameters["shards"] == 2 and from_form.parameters["base_model"] == ""
    begun = min(task.started for task in tasks(runs.look(from_form.run.run_id).workflow)).timestamp()
    lineage = lineage_of(smoke.output_uri)
    for key in (lineage.prepared_key, lineage.model_key(1), lineage.evaluation_key(1), lineage.report_key):
        assert stored.committed(smoke.output_uri, key) < begun, f"{key} was made anew"
    seen(f"exit code 0 after {from_form.run.seconds / 60:.0f} minutes, nothing made anew")


def test_a_pod_of_each_pool_is_placed_as_the_run_says(from_form, gpu_lack, runs, kube, settings, seen):
    if gpu_lack:
        pytest.skip(gpu_lack)
    profile, pods = load_profile(str(settings.profile)), kube.pods(from_form.run.run_id)
    placed = [task for task in tasks(runs.look(from_form.run.run_id).workflow) if task.key.name in POOLS]
    assert {task.key.name for task in placed} == {"generate", "rank", "train", "evaluate"}
    for task in placed:
        pod, pool = pods[task.pods[-1].pod], POOLS[task.key.name]
        (main,) = [container for container in pod.spec.containers if container.name == "main"]
        needs = getattr(profile.stages, task.key.name)
        assert quantities(main.resources.limits) == quantities({"memory": needs.memory, GPU: "1"})
        assert quantities(main.resources.requests) == quantities({"memory": needs.memory, "cpu": needs.cpu, GPU: "1"})
        assert pod.spec.node_selector == {"kubernetes.io/os": "linux"}
        tolerated = {toleration.key for toleration in pod.spec.tolerations if re.match("sppo-", toleration.key or "")}
        assert tolerated == {f"sppo-cluster-test-{pool}"}
        assert pod.spec.active_deadline_seconds == needs.hours * 3600
        assert pod.metadata.labels[RUN_LABEL[0]] == RUN_LABEL[1]
        assert pod.spec.service_account_name == "sppo-runner"
        assert (main.security_context.run_as_user, main.security_context.run_as_non_root) == (USER, True)
    seen(f"{len(placed)} pods with {GPU}: 1, node selector, toleration, memory and time limit as asked")


def quantities(amounts):
    return {name: parse_quantity(amount) for name, amount in amounts.items()}
