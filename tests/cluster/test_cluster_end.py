"""A run that somebody terminates while it trains, and its resumption; over two nodes where Kubeflow Trainer is."""

import pytest
from sppo_pipelines.submission.progress import TaskKey, tasks

from sppo.training.workers.trainjob.follow import ending
from tests.cluster.episodes import PREPARE
from tests.conftest import lineage_of

GONE = 120
"""Seconds within which a terminated run holds nothing any more."""


def test_of_a_terminated_run_no_pod_and_no_train_job_is_left(terminated, seen):
    assert terminated.stopped <= GONE
    assert terminated.end.state != "SUCCEEDED" and terminated.end.workflow.terminated
    job = " and the TrainJob" if terminated.jobs else ""
    seen(f"pods{job} gone after {terminated.stopped:.0f} s")


def test_mlflow_shows_the_terminated_run_as_killed(terminated, tracked, seen):
    parent = tracked.parent(terminated.run.output_uri)
    assert parent.info.status == "KILLED"
    assert parent.data.tags["sppo.ended"] == "somebody ended the run"
    assert {run.info.status for run in tracked.nested(parent)} <= {"KILLED"}
    seen("KILLED, sppo.ended: somebody ended the run")


def test_a_terminated_run_is_resumed_and_plays_only_what_is_missing(resumed, terminated, runs, stored, seen):
    assert resumed.code == 0
    played = {task.key: task for task in tasks(runs.look(terminated.run.run_id).workflow)}
    kept = [PREPARE, *(TaskKey(name, 1, shard) for name in ("generate", "rank") for shard in (0, 1))]
    assert [len(played[key].pods) for key in kept] == [1] * len(kept)
    place = terminated.run.output_uri
    assert stored.manifest(place, lineage_of(place).published_key) is not None
    seen("exit code 0")


def test_mlflow_shows_the_resumed_run_as_finished(resumed, terminated, tracked, seen):
    parent = tracked.parent(terminated.run.output_uri)
    assert parent.info.status == "FINISHED" and "sppo.ended" not in parent.data.tags
    seen("FINISHED")


def test_two_nodes_train_together(resumed, terminated, kube, seen):
    if not terminated.jobs:
        pytest.skip("Kubeflow Trainer's TrainJobs are not known to the cluster")
    (job,) = kube.train_jobs(terminated.run.output_uri).values()
    assert ending(job)["type"] == "Complete"
    assert job["spec"]["trainer"]["numNodes"] == 2
    seen(f"{job['metadata']['name']}: 2 pods, Complete")
