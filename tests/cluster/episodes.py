"""Runs that something happens to: a pod deleted, a bucket that comes late, an end by somebody, a start by a form."""

import secrets
import time
from collections.abc import Set
from pathlib import Path
from typing import Any, NamedTuple

from sppo_pipelines.submission.progress import ENDED, Task, TaskKey
from sppo_pipelines.submission.run import Run

from sppo.training.workers.trainjob.spec import NODE
from tests.cluster import form
from tests.cluster.kube import Kube
from tests.cluster.runs import LONGEST, SHORT, Played, Result, Runs
from tests.cluster.settings import LackError
from tests.cluster.store import Stored
from tests.cluster.waiting import until

PREPARE, TRAIN = TaskKey("prepare", 0, None), TaskKey("train", 1, None)


class Disturbed(NamedTuple):
    """A run of two iterations and two shards, whose first training lost its pod.

    Attributes:
        run: the run.
        result: of the command that followed it.
        back: seconds until another pod trained.
    """

    run: Played
    result: Result
    back: float


def disturb(runs: Runs, kube: Kube) -> Disturbed:
    """Play such a run to its end."""
    run = runs.submit("two-iterations", "iterations=2", "shards=2")
    lost = until(f"a pod of {TRAIN.title}", LONGEST, lambda: working_pod(runs, kube, run.run_id))
    kube.delete(lost)
    began = time.monotonic()

    def another() -> bool:
        pod = working_pod(runs, kube, run.run_id)
        return pod is not None and pod != lost

    until(f"another pod of {TRAIN.title}", SHORT, another, every=2)
    back = time.monotonic() - began
    return Disturbed(run, runs.follow(run.run_id), back)


class Terminated(NamedTuple):
    """A run that was terminated while it trained.

    Attributes:
        run: the run.
        jobs: pods by the TrainJob that they trained in; none where the training is one pod.
        stopped: seconds until no pod worked that did before, and no TrainJob was there.
        end: the run at its end.
    """

    run: Played
    jobs: dict[str, set[str]]
    stopped: float
    end: Run


def terminate(runs: Runs, kube: Kube, several_nodes: Path | None) -> Terminated:
    """Play such a run to its end.

    Args:
        runs: where it is started.
        kube: where its pods are.
        several_nodes: a profile that trains over several nodes, where the cluster can; None for that of the session.
    """
    run = runs.submit("terminated", profile=several_nodes)
    until(f"a pod of {TRAIN.title}", LONGEST, lambda: working_pod(runs, kube, run.run_id))
    jobs: dict[str, set[str]] = {}
    if several_nodes:
        jobs = until("a TrainJob with two pods that work", SHORT, lambda: _training(kube, run.output_uri))
    pods = kube.working(run.run_id).union(*jobs.values())
    runs.terminate(run.run_id)
    began = time.monotonic()
    until("the end of the pods and the TrainJob", SHORT, lambda: _gone(kube, run, pods, jobs), every=2)
    stopped = time.monotonic() - began
    return Terminated(run, jobs, stopped, runs.ended(run.run_id))


def working_pod(runs: Runs, kube: Kube, run_id: str, key: TaskKey = TRAIN) -> str | None:
    """The pod that plays a task, once its container runs.

    Raises:
        AssertionError: if there will be none.
    """
    task = runs.task(run_id, key)
    assert task is None or task.state not in ENDED, f"{key.title} has ended already: {task.state.lower()}"
    return task.pods[-1].pod if task and task.pods and kube.runs(task.pods[-1].pod) else None


def _training(kube: Kube, output_uri: str) -> dict[str, set[str]] | None:
    """The run's TrainJob and its pods, once two of them work."""
    jobs = kube.train_jobs(output_uri)
    pods = {job: {pod for pod in kube.nodes_of(job) if kube.runs(pod, NODE)} for job in jobs}
    return pods if pods and all(len(each) == 2 for each in pods.values()) else None


def _gone(kube: Kube, run: Played, pods: Set[str], jobs: dict[str, set[str]]) -> bool:
    left = kube.working(run.run_id).union(*(kube.nodes_of(name) for name in jobs))
    return not left & pods and not (jobs and kube.train_jobs(run.output_uri))


class Mended(NamedTuple):
    """A run whose bucket was not there before its first stage had failed.

    Attributes:
        log: of that stage.
        state: in which it ended.
        pods: that it needed.
    """

    log: str
    state: str
    pods: int


def mend(runs: Runs, kube: Kube, stored: Stored) -> Mended:
    """Let a stage end with 3, mend what it told, and end the run when the stage has succeeded.

    Raises:
        LackError: if a bucket cannot be made from here, or the stages may not use it.
    """
    bucket = f"sppo-cluster-test-{secrets.token_hex(6)}"
    stored.make_bucket(f"{bucket}-probe")
    stored.remove_bucket(f"{bucket}-probe")
    run = runs.submit("late-bucket", output_uri=f"s3://{bucket}/run")
    pod = until("a pod of prepare", LONGEST, lambda: working_pod(runs, kube, run.run_id, PREPARE))
    until("the failure of its first try", SHORT, lambda: "try 2 of " in kube.log(pod), every=1)
    stored.make_bucket(bucket)
    try:
        prepared = until("the end of prepare", LONGEST, lambda: _ended(runs, run.run_id))
        log = runs.logs(run.run_id, "prepare")
    finally:
        runs.stop(run.run_id)
        stored.remove_bucket(bucket)
    if prepared.state == "FAILED" and "AccessDenied" in log:
        raise LackError("the credentials of the stages are not for a bucket that is made for them")
    return Mended(log, prepared.state, len(prepared.pods))


def _ended(runs: Runs, run_id: str) -> Task | None:
    task = runs.task(run_id, PREPARE)
    return task if task and task.state in ENDED else None


class FromForm(NamedTuple):
    """A run that was started as the web UI starts one.

    Attributes:
        run: the run, and the command that followed it.
        parameters: that were posted.
    """

    run: Played
    parameters: dict[str, Any]


def start_from_form(runs: Runs, before: Played, gpus: str) -> FromForm:
    """Post what the form posts when an earlier run's values are typed in, and where its pods are to go."""
    told = runs.client.get(f"runs/{before.run_id}")
    version = told["pipeline_version_reference"]
    path = f"pipelines/{version['pipeline_id']}/versions/{version['pipeline_version_id']}"
    package = runs.client.get(path)["pipeline_spec"]
    declared = package.get("pipeline_spec", package)["root"]["inputDefinitions"]["parameters"]
    typed = form.typed(told["runtime_config"]["parameters"] | placed(gpus))
    body = form.request(declared, typed, version, told["experiment_id"])
    began = time.monotonic()
    run_id = runs.post(body)
    result = runs.follow(run_id)
    return FromForm(
        runs.note(run_id, before.output_uri, result, time.monotonic() - began), body["runtime_config"]["parameters"]
    )


def placed(gpus: str) -> dict[str, Any]:
    """Where the pods of each pool go: any node of this cluster, said in each way."""
    found: dict[str, Any] = {}
    for pool in ("generation", "ranking", "training"):
        found[f"{pool}_node_selector"] = {"kubernetes.io/os": "linux"}
        found[f"{pool}_tolerations"] = [{"key": f"sppo-cluster-test-{pool}", "operator": "Exists"}]
        found[f"{pool}_gpus"] = gpus
    return found
