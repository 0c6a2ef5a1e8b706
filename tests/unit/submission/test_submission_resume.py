"""`--keep-going`: a run that infrastructure ended is resumed, and no other."""

from types import SimpleNamespace

import pytest

from . import argo
from .argo import gate, pod_name, stage_log, task
from .conftest import snapshot
from .test_submission_follow import PLAYED
from .test_submission_reason import AWAY, MISSING, broken

TRAINED = broken("train", iteration=1)
RUNNING = snapshot("RUNNING")
PASSED = snapshot("SUCCEEDED", *gate(True, 111, 115), finished_at="2026-01-01T09:00:00Z")
GATE_FAILED = snapshot("SUCCEEDED", *gate(False, 111, 115), finished_at="2026-01-01T09:00:00Z")
TOO_LONG = "Pod was active on the node longer than the specified deadline"
TOO_MUCH = 'Usage of EmptyDir volume "shared-memory" exceeds the limit "2Gi". '


def failed(*tasks: argo.Task, minute: int = 1, **workflow) -> dict:
    return snapshot("FAILED", *tasks, finished_at=f"2026-01-01T00:{minute:02}:00Z", **workflow)


def too_large(last: argo.Task) -> dict:
    return failed(*PLAYED[:5], last, compressed=True, padding=150_000)


@pytest.fixture
def waited(monkeypatch):
    """The pauses, which take no time; `.then` is done in the next one."""
    pauses = SimpleNamespace(seconds=[], then=lambda: None)

    def sleep(seconds: float) -> None:
        pauses.seconds.append(seconds)
        pauses.then()

    monkeypatch.setattr("sppo_pipelines.submission.commands.time", SimpleNamespace(sleep=sleep))
    return pauses


@pytest.fixture
def keep_going(submit, kubeflow, waited):
    """Follows a run to its end, and each resume of it to the next one; `said` is what the stage that fails prints."""

    def run(*scripts: list[dict], times: int = 3, said: str = "", code: int = 3):
        kubeflow.archived_logs[pod_name(TRAINED)] = stage_log(said or AWAY, code=code)
        kubeflow.script, *kubeflow.later = scripts
        return submit("--wait", "--keep-going", str(times))

    return run


def retries(kubeflow) -> int:
    return len(kubeflow.sent("POST runs/run-0:retry"))


def test_a_run_that_lost_its_store_is_resumed_until_it_succeeds(keep_going, kubeflow, waited):
    result = keep_going([RUNNING, failed(TRAINED)], [RUNNING, failed(TRAINED, minute=2)], [RUNNING, PASSED])
    assert result.code == 0, result.err
    assert (retries(kubeflow), len(kubeflow.runs)) == (2, 1)
    assert waited.seconds == [300, 600]
    assert f"the run failed in self-play 1 train\n  {AWAY}\nresume 1 of 3 in 0:05:00\n" in result.out
    assert f"the run failed in self-play 1 train\n  {AWAY}\nresume 2 of 3 in 0:10:00\n" in result.out
    assert result.out.endswith("the run succeeded; the gate is passed\n")


def test_without_the_flag_nothing_is_resumed(submit, kubeflow):
    kubeflow.archived_logs[pod_name(TRAINED)] = stage_log(AWAY, code=3)
    kubeflow.script = [RUNNING, failed(TRAINED)]
    assert submit("--wait").code == 3
    assert retries(kubeflow) == 0


def test_after_the_last_resume_its_end_is_the_exit_code(keep_going, kubeflow):
    ends = [[RUNNING, failed(TRAINED, minute=minute)] for minute in range(1, 4)]
    result = keep_going(*ends, times=2)
    assert (result.code, retries(kubeflow)) == (3, 2)
    assert "the run failed in self-play 1 train: http" in result.err


def test_pauses_are_an_hour_at_most(keep_going, waited):
    ends = [[RUNNING, failed(TRAINED, minute=minute)] for minute in range(1, 8)]
    assert keep_going(*ends, times=6).code == 3
    assert waited.seconds == [300, 600, 1200, 2400, 3600, 3600]


@pytest.mark.parametrize(
    "message",
    [
        "pod deleted",
        "pod failed: neither main nor wait container completed successfully",
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 40280Ki. ",
        "The node had condition: [DiskPressure]. ",
        "Pod was terminated in response to imminent node shutdown.",
        "Pod was rejected as the node is shutting down.",
        "Pod was rejected: Allocate failed due to requested number of devices unavailable for nvidia.com/gpu",
        "Preempted in order to admit critical pod",
    ],
)
def test_a_run_that_lost_a_pod_is_resumed(keep_going, kubeflow, message):
    lost = broken("train", iteration=1, messages=["pod deleted", message])
    result = keep_going([RUNNING, failed(lost)], [RUNNING, PASSED])
    assert (result.code, retries(kubeflow)) == (0, 1), result.err
    assert f"\n  self-play 1 train: {message}".rstrip() in result.out


@pytest.mark.parametrize(
    ("end", "said", "code", "ends_with"),
    [
        (failed(TRAINED), MISSING, 2, 2),
        (failed(TRAINED), "error: no", 4, 4),
        (failed(TRAINED), "Traceback", 1, 4),
        (failed(TRAINED), AWAY, 143, 4),
        (failed(broken("train", iteration=1, messages=["main: OOMKilled (exit code 137)"])), AWAY, 3, 4),
        (failed(broken("train", iteration=1, messages=[TOO_LONG])), AWAY, 3, 4),
        (failed(broken("train", iteration=1, messages=[TOO_MUCH])), AWAY, 143, 4),
        (failed(broken("rank", iteration=1, shard=0)), AWAY, 3, 4),  # its log cannot be read
        (failed(TRAINED, terminated=True), AWAY, 3, 4),
        (failed(TRAINED, shutdown="Stop"), AWAY, 3, 4),
        (failed(message="workflow is longer than maximum allowed size"), AWAY, 3, 4),
        (GATE_FAILED, AWAY, 3, 5),
        (snapshot("SUCCEEDED"), AWAY, 3, 3),
    ],
)
def test_what_would_end_so_again_or_somebody_ended_is_not_resumed(
    keep_going, kubeflow, waited, end, said, code, ends_with
):
    result = keep_going([RUNNING, end], [RUNNING, PASSED], said=said, code=code)
    assert result.code == ends_with, result.err
    assert (retries(kubeflow), len(kubeflow.runs), waited.seconds) == (0, 1, [])


def test_one_task_that_would_fail_again_is_enough(keep_going, kubeflow):
    """The shard that lost its pod failed first."""
    lost = task("generate", "Failed", start=1, end=2, iteration=1, shard=0, messages=["pod deleted"])
    wrong = task("generate", "Failed", start=1, end=9, iteration=1, shard=1, messages=["main: Error (exit code 1)"])
    kubeflow.archived_logs[pod_name(wrong)] = stage_log(MISSING, code=2)
    result = keep_going([RUNNING, failed(lost, wrong)], [RUNNING, PASSED])
    assert (result.code, retries(kubeflow)) == (2, 0) and MISSING in result.err


def anew(kubeflow) -> dict:
    """The second run, without what the server says of it itself."""
    first, second = kubeflow.runs
    told = {"run_id", "display_name", "state", "finished_at", "created_at", "workflow"}
    assert {k: v for k, v in first.items() if k not in told} == {k: v for k, v in second.items() if k not in told}
    return second


@pytest.mark.parametrize("fault", [None, 503, "reset"])
def test_a_run_too_large_to_retry_is_submitted_anew(submit, kubeflow, waited, fault):
    """With its package, parameters, experiment and service account; also where the answer is lost."""
    lost = broken("train", iteration=1, messages=["pod deleted"])
    kubeflow.script, kubeflow.later = [RUNNING, too_large(lost)], [[RUNNING, PASSED]]
    waited.then = lambda: fault and kubeflow.fail("POST runs", fault, late=True)
    result = submit("--wait", "--keep-going", "1", "--service-account", "runner", "--experiment", "own", "seed=4")
    assert result.code == 0, result.err
    assert retries(kubeflow) == 0
    second = anew(kubeflow)
    assert second["runtime_config"]["parameters"]["output_uri"] == "s3://bucket/run"
    assert second["service_account"] == "runner" and second["pipeline_version_reference"]
    assert second["display_name"] == "run 2026-01-01 00:01:00 after run-0"
    assert "it is too large for Kubeflow to retry: a new run" in result.out
    assert (
        f"a new run with the same output_uri goes on\nrun:     {kubeflow.address}/#/runs/details/run-1\n" in result.out
    )


def test_resume_goes_on_with_a_run_too_large_to_retry(sppo, kubeflow):
    configured = {"runtime_config": {"parameters": {"output_uri": "s3://bucket/run/"}}, "experiment_id": "e"}
    end = too_large(TRAINED)
    kubeflow.runs = [{"run_id": "run-0", "display_name": "my run", **end, **configured}]
    kubeflow.script, kubeflow.later = [end], [[RUNNING, PASSED]]
    result = sppo("resume", "run-0", "--host", kubeflow.address, "--wait", "--keep-going", "1")
    assert result.code == 0, result.err
    assert anew(kubeflow)["run_id"] == "run-1"


def test_what_somebody_else_resumed_in_the_pause_is_followed_only(keep_going, kubeflow, waited):
    def resume() -> None:
        kubeflow.script = [RUNNING, RUNNING, failed(TRAINED, minute=5, terminated=True)]

    waited.then = resume
    result = keep_going([RUNNING, failed(TRAINED)], [RUNNING, PASSED])
    assert result.code == 4 and "somebody ended the run" in result.err
    assert retries(kubeflow) == 0 and "somebody else has resumed it" in result.out


def test_a_server_that_is_gone_after_the_pause_is_told(keep_going, kubeflow, waited):
    waited.then = lambda: kubeflow.fail("GET runs/", 500, times=100)
    result = keep_going([RUNNING, failed(TRAINED)])
    assert (result.code, result.err.count("\n")) == (3, 1)
    again = f"`sppo resume run-0 --host {kubeflow.address} --wait` goes on with it"
    assert f"; the run has failed, and {again}" in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep-going", "2"], "--keep-going resumes a run at its end: give --wait too"),
        (["--wait", "--keep-going", "-1"], "--keep-going: -1 is less than 0"),
    ],
)
def test_a_count_without_a_meaning_is_refused(submit, sppo, kubeflow, flags, message):
    for result in (submit(*flags), sppo("resume", "run-0", "--host", kubeflow.address, *flags)):
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert message in result.err
    assert kubeflow.requests == []
