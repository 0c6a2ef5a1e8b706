"""What is told of a TrainJob's pods: the log of rank 0, and why one failed."""

import threading
import time

import pytest

from sppo.errors import ConfigError, InfrastructureError, RunFailedError
from sppo.training.workers.trainjob import follow, pods
from sppo.training.workers.trainjob.client import Cluster
from tests.unit.trainjob.jobs import NAME, after, once, until, wanted
from tests.unit.trainjob.state import JOBS, PODS, terminated


def test_the_log_of_rank_0_is_printed_as_it_grows(api, capsys):
    api.put(JOBS, wanted())
    other, pod = api.pod(NAME, 1), api.pod(NAME, 0)
    api.write(other, "of rank 1")
    api.write(pod, "step 1", "", "step 2 é")
    thread = threading.Thread(target=follow.follow, args=(Cluster(), api.objects[JOBS][NAME]))
    thread.start()
    shown = ""

    def told(text):
        nonlocal shown
        shown += capsys.readouterr().out
        return text in shown

    until(lambda: told("step 2 é"))
    api.write(pod, "step 3")
    until(lambda: told("step 3"))
    api.cut += 1  # the connection is lost: nothing is told twice
    api.write(pod, "step 4")
    until(lambda: told("step 4"))
    until(lambda: [each for each in api.sent("GET") if each.path.endswith("/log") and "sinceSeconds" in each.query])
    api.write(pod, end=True)
    api.pod(NAME, 0, 1, last=terminated(1, container=f"containerd://{pod}-0"))
    api.logs[pod] = []
    api.write(pod, "resuming after step 3", end=True)
    until(lambda: told("resuming"))
    api.remove(PODS, pod)  # a node is lost, and another pod takes its place
    api.logs.pop(pod)
    api.objects[PODS].clear()
    api.pod(NAME, 0, 7)
    api.write(pod, "resuming after step 9", end=True)
    until(lambda: told("step 9"))
    api.pod(NAME, 0, 7, state=terminated(0, "Completed"))
    api.end(NAME, "Complete")
    thread.join(10)
    told("")
    lines = [line for line in shown.splitlines() if "step" in line or not line]
    assert lines == ["step 1", "", "step 2 é", "step 3", "step 4", "resuming after step 3", "resuming after step 9"]
    assert "rank 1" not in shown


def lines_of(out):
    return [line for line in out.splitlines() if line.startswith("line")]


def test_the_end_of_the_log_is_printed_before_the_end_of_the_job(api, capsys):
    api.put(JOBS, wanted())
    pod = api.pod(NAME, 0)

    def play():
        api.write(pod, *(f"line {i}" for i in range(900)), end=True)
        api.pod(NAME, 0, state=terminated(0, "Completed"))
        api.end(NAME, "Complete")

    after(0.1, play)
    follow.run(Cluster(), wanted())
    out = capsys.readouterr().out
    assert lines_of(out) == [f"line {i}" for i in range(900)]
    assert out.endswith(f"TrainJob {NAME}: complete\n")


def test_the_log_of_a_job_that_ends_before_its_pods_were_seen_is_printed(api, capsys):
    """On a busy host the list of the pods is late."""
    listed = api.hold(f"GET {PODS}")

    def play(job):
        pod = api.pod(NAME, 0, state=terminated(0, "Completed"))
        api.write(pod, *(f"line {i}" for i in range(900)), end=True)
        api.end(NAME, "Complete")
        after(0.5, listed.set)

    api.on_create = play
    follow.run(Cluster(), wanted())
    assert lines_of(capsys.readouterr().out) == [f"line {i}" for i in range(900)]


def test_the_log_of_a_job_that_was_complete_before_is_printed(api, capsys):
    """It ended between two attempts at the step, or while a busy host started the second."""
    api.put(JOBS, wanted())
    api.write(api.pod(NAME, 0, state=terminated(0, "Completed")), "line 1", "line 2", end=True)
    api.end(NAME, "Complete")
    follow.run(Cluster(), wanted())
    out = capsys.readouterr().out
    assert lines_of(out) == ["line 1", "line 2"] and out.endswith("complete\n")


def test_a_log_that_comes_slowly_is_printed_to_its_end(api, capsys, monkeypatch):
    monkeypatch.setattr(pods, "DRAIN", 1.5)
    api.put(JOBS, wanted())
    pod = api.pod(NAME, 0)
    api.write(pod, "line 0")

    def play():
        api.pod(NAME, 0, state=terminated(0, "Completed"))
        api.end(NAME, "Complete")
        for i in range(1, 10):
            time.sleep(0.2)
            api.write(pod, f"line {i}", end=i == 9)

    after(0.1, play)
    follow.run(Cluster(), wanted())
    assert lines_of(capsys.readouterr().out) == [f"line {i}" for i in range(10)]


def test_a_log_whose_last_reading_fails_is_read_again(api, capsys):
    api.put(JOBS, wanted())
    pod = api.pod(NAME, 0)
    api.write(pod, "line 0", "line 1")

    def play():
        api.pod(NAME, 0, state=terminated(0, "Completed"))
        api.fail(f"GET {PODS}/{pod}/log", 500, times=3)
        api.end(NAME, "Complete")
        api.write(pod, "line 2")
        api.cut += 1
        api.write(pod, "line 3", end=True)

    once(lambda: [r for r in api.sent("GET") if r.path.endswith("/log")], play)
    follow.run(Cluster(), wanted())
    assert lines_of(capsys.readouterr().out) == [f"line {i}" for i in range(4)]


def test_a_log_that_does_not_come_is_given_up_and_that_is_said(api, capsys, monkeypatch):
    monkeypatch.setattr(pods, "DRAIN", 0.5)
    api.put(JOBS, wanted())
    api.write(api.pod(NAME, 0), "line 0")
    held = api.hold(f"GET {PODS}/")
    after(0.1, api.end, NAME, "Complete")
    follow.run(Cluster(), wanted())
    told, last = capsys.readouterr().out.splitlines()[-2:]
    assert told == "warning: the end of rank 0's log is missing: no line of it came for 0.5 s"
    assert last == f"TrainJob {NAME}: complete"
    follower = next(thread for thread in threading.enumerate() if thread.name == f"the log of {NAME}")
    api.write(f"{NAME}-node-0-0-abcde", "line 1", end=True)
    held.set()
    follower.join(10)
    assert not follower.is_alive() and capsys.readouterr().out == ""  # too late: it would stand amid what follows


SUMMARY = """Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : {} (pid: 14546)
  error_file: <N/A>"""


def fail(api, *states, **last):
    """Let a job fail after its pods ended so."""
    api.put(JOBS, wanted())
    for index, (state, lines) in enumerate(states):
        pod = api.pod(NAME, index, state=state, **last)
        api.write(pod, *lines, end=True)
    failed = "jobset failed due to one or more job failures"
    once(lambda: api.sent(f"WATCH {JOBS}"), api.end, NAME, "Failed", failed)


def test_a_failure_is_told_with_reason_code_and_last_lines(api):
    fail(api, (terminated(1), ["step 1", "loss is NaN at step 2, pair p7"]))
    with pytest.raises(RunFailedError) as raised:
        follow.run(Cluster(), wanted())
    assert raised.value.exit_code == 4
    assert f"pod {NAME}-node-0-0-abcde: Error, exit code 1 (JobsFailed: jobset failed due to" in str(raised.value)
    assert str(raised.value).endswith("\n  step 1\n  loss is NaN at step 2, pair p7")


def test_the_pod_that_failed_first_is_told_not_those_that_followed(api):
    fail(
        api,
        (terminated(1, second=5), ["NCCL: peer is gone"]),
        (terminated(137, "OOMKilled", second=9), ["allocating"]),
        (terminated(143, second=1), ["stopped"]),
    )
    with pytest.raises(RunFailedError, match="node-0-1-abcde: OOMKilled, exit code 137"):
        follow.run(Cluster(), wanted())


def test_an_eviction_is_told(api):
    api.put(JOBS, wanted())
    api.pod(NAME, 1, state={"waiting": {"reason": "ContainerCreating"}}, phase="Failed", reason="Evicted",
            message="The node was low on resource: memory.")  # fmt: skip
    once(lambda: api.sent(f"WATCH {JOBS}"), api.end, NAME, "Failed")
    with pytest.raises(RunFailedError, match=r"node-0-1-abcde: Evicted: The node was low on resource: memory\."):
        follow.run(Cluster(), wanted())


@pytest.mark.parametrize(("code", "kind"), [(2, ConfigError), (3, InfrastructureError), (1, RunFailedError)])
@pytest.mark.parametrize("through_torchrun", [True, False])
def test_an_exit_code_keeps_its_meaning(api, code, kind, through_torchrun):
    lines = ["error: train.eta: wrong", *(SUMMARY.format(code).splitlines() if through_torchrun else [])]
    fail(api, (terminated(1 if through_torchrun else code), lines))
    with pytest.raises(kind, match=r"error: train\.eta: wrong") as raised:
        follow.run(Cluster(), wanted())
    assert f"exit code {code}" in str(raised.value)


def test_the_lines_before_those_of_torchrun_are_shown(api):
    noise = "E1122 1 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 4) local_rank: 1"
    lines = [
        *(f"step {i}" for i in range(60)),
        "error: loss is NaN",
        noise,
        "Traceback:",
        *SUMMARY.format(4).splitlines(),
    ]
    fail(api, (terminated(1), lines))
    with pytest.raises(RunFailedError, match="exit code 4") as raised:
        follow.run(Cluster(), wanted())
    shown = str(raised.value).splitlines()[1:]
    assert shown == [*(f"  step {i}" for i in range(41, 60)), "  error: loss is NaN"]


def test_a_worker_that_is_killed_is_told_by_its_signal(api):
    fail(api, (terminated(1), SUMMARY.format(-9).splitlines()))
    with pytest.raises(RunFailedError, match="Error, signal 9"):
        follow.run(Cluster(), wanted())


def test_the_failure_of_a_pod_that_is_gone_already_is_remembered(api):
    """A Job deletes pods that it restarted in place, once it has failed."""
    api.put(JOBS, wanted())
    pod = api.pod(NAME, 0)
    api.write(pod, "CUDA error", end=True)

    def end():
        api.pod(NAME, 0, 1, last=terminated(1, container=f"containerd://{pod}-0"))
        until(lambda: any("tailLines" in request.query for request in api.requests))
        api.remove(PODS, pod)
        api.end(NAME, "Failed")

    after(0.1, end)
    with pytest.raises(RunFailedError, match=r"exit code 1.*\n  CUDA error"):
        follow.run(Cluster(), wanted())


def test_a_failure_whose_last_lines_are_still_read_is_waited_for(api):
    api.put(JOBS, wanted())
    pod = api.pod(NAME, 1)
    api.write(pod, "CUDA error", end=True)
    read = api.hold(f"GET {PODS}/{pod}/log")

    def end():
        api.pod(NAME, 1, state=terminated(1))
        until(lambda: any("tailLines" in request.query for request in api.requests))
        api.remove(PODS, pod)
        api.end(NAME, "Failed")
        after(0.5, read.set)

    once(lambda: api.sent(f"WATCH {PODS}"), end)
    with pytest.raises(RunFailedError, match=r"exit code 1.*\n  CUDA error"):
        follow.run(Cluster(), wanted())


def test_a_failure_without_pods_is_told_by_the_job(api):
    api.put(JOBS, wanted())
    once(lambda: api.sent(f"WATCH {JOBS}"), api.end, NAME, "Failed", "the runtime torch-distributed is not there")
    with pytest.raises(RunFailedError, match=f"{NAME} failed: JobsFailed: the runtime torch-distributed is not there$"):
        follow.run(Cluster(), wanted())


def test_rights_to_the_pods_that_are_missing_cost_the_log_and_not_the_training(api, capsys):
    # A while after the request, so that its answer is there before the end.
    api.on_create = lambda job: once(lambda: api.sent(f"GET {PODS}"), after, 1.0, api.end, NAME, "Complete")
    api.fail(f"GET {PODS}", 403, times=10**6)
    follow.run(Cluster(), wanted())
    out = capsys.readouterr().out
    assert "list pods in namespace team: ServiceAccount sppo-runner may not" in out
    assert "the training goes on" in out and out.endswith("complete\n")
