"""Why a run on a cluster failed: the stage's own last words, its exit code, and advice that fits."""

from xml.etree import ElementTree

import pytest
from sppo_pipelines.last_lines import last_lines
from sppo_pipelines.submission.reason import exit_code

from .argo import NAMESPACE, RUN, driver, pod_id, pod_name, stage_log, task
from .conftest import TOKEN, snapshot

PREPARED = task("prepare", start=3, end=10)
EXITED = ["main: Error (exit code 1)"]
MISSING = "error: s3://runs/missing.jsonl: no such object; check the bucket and the key"
AWAY = "error: s3://runs: no answer; try again later"
TRACEBACK = [
    "Traceback (most recent call last):",
    *[f'  File "/app/sppo/training/train.py", line {number}, in step' for number in range(40)],
    "torch.cuda.OutOfMemoryError: CUDA out of memory.",
]


def broken(name: str, **where: int) -> object:
    return task(name, "Failed", start=11, end=40, messages=where.pop("messages", EXITED), **where)


@pytest.fixture
def fail(submit, kubeflow):
    """Follows a run that fails in a task whose pod printed something."""

    def run(failed, log: str | None = None, *flags: str, **workflow):
        if log is not None:
            kubeflow.archived_logs[pod_name(failed, len(failed.messages) - 1)] = log
        before = () if failed.path[-1] == "prepare" else (PREPARED,)
        kubeflow.script = [snapshot("RUNNING"), snapshot("FAILED", *before, failed, **workflow)]
        return submit("--wait", *flags)

    return run


def test_wrong_input_is_told_and_ends_with_2(fail, kubeflow):
    result = fail(broken("prepare"), stage_log("reading prompts", MISSING, code=2))
    page = f"{kubeflow.address}/#/runs/details/run-0"
    assert result.err == f"error: the run failed in prepare: {page}; correct the input and submit again\n  {MISSING}\n"
    assert result.code == 2


def test_a_store_that_is_away_ends_with_3(fail, kubeflow):
    result = fail(broken("generate", iteration=2, shard=3), stage_log("chunk 1", AWAY, code=3))
    assert result.code == 3
    assert "the run failed in self-play 2 generate: http" in result.err
    assert (
        f"when that is mended, `sppo resume run-0 --host {kubeflow.address}` goes on from there\n  {AWAY}\n"
        in result.err
    )


@pytest.mark.parametrize("code", [1, 4, 143])
def test_any_other_exit_code_ends_with_4_and_the_end_of_the_traceback(fail, kubeflow, code):
    result = fail(broken("train", iteration=1), stage_log(*TRACEBACK, code=code))
    assert result.code == 4
    head, *lines = result.err.splitlines()
    assert f"`sppo resume run-0 --host {kubeflow.address}` goes on from there" in head
    assert f"`sppo logs run-0 train --iteration 1 --host {kubeflow.address}` shows its whole log" in head
    assert [line[2:] for line in lines] == TRACEBACK[-10:]


def test_a_run_that_is_too_large_to_retry_is_not_to_be_resumed(fail, kubeflow):
    """`sppo resume` would refuse it."""
    result = fail(broken("train", iteration=1), stage_log(*TRACEBACK, code=1), padding=400_000)
    assert "submit again with the same output_uri (s3://bucket/run): that plays only what is missing" in result.err
    assert "sppo resume" not in result.err


def test_out_of_memory_names_the_setting(fail):
    result = fail(broken("evaluate", iteration=1, messages=["main: OOMKilled (exit code 137)"]))
    assert result.code == 4
    head, line = result.err.splitlines()
    assert "raise stages.evaluate.memory in a profile of your own and submit again" in head and "resume" not in head
    assert line == "  self-play 1 evaluate: main: OOMKilled (exit code 137)"


def test_a_time_limit_names_the_setting(fail):
    message = "Pod was active on the node longer than the specified deadline"
    result = fail(broken("launch", iteration=1, messages=[message]))
    assert "raise stages.train.hours in a profile" in result.err
    assert f"\n  self-play 1 train: {message}\n" in result.err


def test_the_last_attempt_counts(fail, kubeflow):
    failed = broken("prepare", messages=["pod deleted", "main: Error (exit code 1)"])
    kubeflow.archived_logs[pod_name(failed, 0)] = stage_log(AWAY, code=3)
    result = fail(failed, stage_log(MISSING, code=2))
    assert result.code == 2 and MISSING in result.err and AWAY not in result.err


def test_a_log_that_is_gone_is_told(fail):
    failed = broken("prepare")
    result = fail(failed)
    assert result.code == 4
    name = pod_name(failed)
    command = f"`kubectl logs {name} --container main --namespace {NAMESPACE}` may show it"
    unread = f"its log cannot be read: the API server has no log of pod {name} (no such key); {command}"
    assert result.err.splitlines()[1:] == [f"  {unread}"]


def test_a_pod_that_is_gone_is_infrastructure(fail):
    result = fail(broken("prepare", messages=["pod deleted"]))
    assert result.code == 3
    assert "goes on from there\n  prepare: pod deleted\n" in result.err


@pytest.mark.parametrize("name", ["pod", "node"])
def test_the_log_is_read_after_the_pod_is_gone(fail, kubeflow, name):
    """The server finds an archived log by the pod's name; an older one only by the node's id."""
    failed = broken("prepare")
    found = {"pod": pod_name(failed), "node": pod_id(failed)}
    kubeflow.archived_logs[found[name]] = stage_log(MISSING, code=2)
    assert fail(failed).code == 2


def test_behind_a_gateway_the_log_is_the_uis(fail, kubeflow):
    """The UI forwards v1beta1 and v2beta1, and answers other routes with its page of 404."""
    kubeflow.behind_ui = True
    failed = broken("prepare")
    kubeflow.pod_logs[pod_name(failed)] = stage_log(MISSING, code=2)
    assert fail(failed).code == 2
    kubeflow.pod_logs.clear()
    result = fail(failed)
    assert result.code == 4 and "its log cannot be read: http" in result.err and "no such pod" in result.err


@pytest.mark.parametrize("multi_user", [False, True])
def test_of_a_large_run_the_log_is_the_pods(fail, kubeflow, kubernetes, multi_user):
    """The server does not find archived logs of compressed nodes, and without users no pod's either."""
    failed = broken("prepare")
    kubeflow.archived_logs[pod_name(failed)] = "not found"
    if multi_user:
        kubeflow.multi_user = True
        kubeflow.pod_logs[pod_name(failed)] = stage_log(MISSING, code=2)
    else:
        pod = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod_name(failed)}/log"
        kubernetes.held[pod] = stage_log(MISSING, code=2)
    assert fail(failed, None, "--namespace", "team", compressed=True).code == 2
    assert bool(kubernetes.requests) != multi_user


@pytest.mark.parametrize(("kind", "told"), [(403, "403 injected"), (404, " keeps no logs"), ("page", " keeps no logs")])
def test_no_right_and_no_log_are_told_and_the_outcome_stays(fail, kubeflow, kind, told):
    kubeflow.fail("GET v1alpha1/", kind, times=9)
    result = fail(broken("prepare"), stage_log(MISSING, code=2))
    assert result.code == 4
    assert "the run failed in prepare: http" in result.err
    assert f"  its log cannot be read: {kubeflow.address}" in result.err and told in result.err


def test_a_log_that_breaks_off_is_not_taken_for_whole(fail, kubeflow):
    broken_off = stage_log("chunk 1", code=0) + '{"error_message":"Failed to read","error_details":"unexpected EOF"}'
    assert "no log of pod" in fail(broken("prepare"), broken_off).err


@pytest.mark.parametrize(
    ("inside", "named"),
    [
        (("shards", "iteration"), "the driver of self-play 1 shards"),
        (("shards", "iteration-iterations(1:1)", "iteration-item"), "the driver of self-play 1 shards, shard 1"),
        (("train",), "the driver of self-play 1 train"),
    ],
)
def test_a_driver_that_failed_is_told(fail, kubeflow, inside, named):
    words = "KFP driver: parent DAG does not have input parameter pipelinechannel--shards"
    failed = driver(*RUN, "iterations", "self-play-1", *inside, message="main: Error (exit code 1): no input")
    result = fail(failed, f"I0101 00:00:09.000001 1 main.go:9] begins\nF0101 00:00:09.000001 1 main.go:79] {words}\n")
    assert result.code == 4
    assert f"the run failed in {named}: http" in result.err
    assert f"\n  {named}: main: Error (exit code 1): no input\n" in result.err
    assert result.err.endswith(f"] {words}\n")


def test_an_exit_task_that_failed_is_told_if_nothing_else_did(fail):
    failed = broken("finish")
    result = fail(failed, stage_log(AWAY, code=3))
    assert result.code == 3 and "the run failed in finish: http" in result.err and AWAY in result.err


def test_what_failed_first_is_told(submit, kubeflow):
    failed, later = broken("prepare"), task("finish", "Failed", start=50, end=60, messages=EXITED)
    kubeflow.archived_logs[pod_name(later)] = stage_log(AWAY, code=3)
    kubeflow.archived_logs[pod_name(failed)] = stage_log(MISSING, code=2)
    kubeflow.script = [snapshot("RUNNING"), snapshot("FAILED", failed, later)]
    assert submit("--wait").code == 2


def test_a_workflow_that_argo_gives_up_is_told(submit, kubeflow):
    message = "workflow is longer than maximum allowed size. compressed size 1060000 > maxSize 1048576"
    kubeflow.script = [snapshot("RUNNING"), snapshot("FAILED", PREPARED, message=message)]
    result = submit("--wait")
    assert result.code == 4 and f"\n  {message}\n" in result.err


def test_reports_hold_the_reason(fail, kubeflow, monkeypatch, tmp_path, submit):
    summary, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    fail(broken("prepare"), stage_log(MISSING, f"the token is {TOKEN}", code=2))
    assert f"```text\n  {MISSING}\n```" in summary.read_text()
    kubeflow.script = kubeflow.script[-1:]
    submit("--wait", "--junit", str(junit))
    told = {failure.text for failure in ElementTree.parse(junit).iter("failure")}
    assert told == {f"\n  {MISSING}"}


def test_what_a_stage_prints_of_the_token_is_hidden(fail):
    """A stage does not know it; the fixture looks for it in all that is printed."""
    assert "***" in fail(broken("prepare"), stage_log(f"who is {TOKEN}?", code=1)).err


@pytest.mark.parametrize(
    "ending",
    [
        'time="2026-01-01T00:00:09.1Z" level=info msg="sub-process exited" argo=true error="exit status 1"',
        '{"time":"2026-01-01T00:00:09.1Z","level":"INFO","msg":"sub-process exited","argo":true,"error":"exit"}',
        "Error: exit status 1",
    ],
)
def test_what_argos_versions_say_is_not_the_stages(ending):
    log = stage_log("ValueError: no", code=3) + ending + "\n"
    assert last_lines(log) == ["ValueError: no"]
    assert exit_code(log) == 3


def test_of_several_errors_the_last_one_counts():
    assert last_lines("error: first\nerror: second\nI0101 00:00:09.000001 1 x.go:1] bye\n") == ["error: second"]
    assert last_lines("") == []


def test_what_stands_below_an_error_belongs_to_it_and_colours_do_not():
    """A stage that waits for a TrainJob quotes its pods' last lines."""
    log = "before\n  error: TrainJob x failed: Error; its last lines:\n    \x1b[31mValueError:\x1b[0m no\x07\n  after\n"
    assert last_lines(log) == ["error: TrainJob x failed: Error; its last lines:", "ValueError: no\\x07"]
    assert last_lines("\x1b[0;36m[rank0]:\x1b[0m ValueError: no\n") == ["[rank0]: ValueError: no"]


def test_the_stages_words_are_not_its_exit_code():
    assert exit_code("the stage said: exit status 2\n") == 0
