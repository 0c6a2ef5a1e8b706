"""`sppo logs`: whose log is meant, and how it is read while it grows."""

import pytest

from .argo import pod_name, stage_log, task
from .conftest import snapshot

PREPARED = task("prepare", start=3, end=10)
SHARDS = [task("generate", start=11, end=20 + shard, iteration=1, shard=shard) for shard in (0, 1)]
TRAINED = task("train", start=26, end=40, iteration=1)
FAILED = task("train", "Failed", start=60, end=70, iteration=2, messages=["pod deleted", "main: Error (exit code 1)"])


GOES_ON = snapshot("RUNNING", PREPARED, *SHARDS, TRAINED)


@pytest.fixture
def logs(sppo, kubeflow):
    """Runs `sppo logs run-0`; every pod has printed what it is."""
    for each in (PREPARED, *SHARDS, TRAINED, FAILED):
        for attempt in range(len(each.messages)):
            kubeflow.archived_logs[pod_name(each, attempt)] = stage_log(f"{each.path[-1]} {each.end} {attempt}", code=0)

    def run(*arguments: str, script=(GOES_ON,)):
        kubeflow.script = [script[0], *script]  # the first answer is the second
        kubeflow.runs = [{"run_id": "run-0", "display_name": "my run", **script[0]}]
        return sppo("logs", "run-0", *arguments, "--host", kubeflow.address)

    return run


@pytest.mark.parametrize(
    ("arguments", "meant", "title"),
    [
        (["prepare"], PREPARED, "prepare"),
        (["generate", "--shard", "1"], SHARDS[1], "self-play 1 generate, shard 1"),
        (["--shard", "0", "--iteration", "1"], SHARDS[0], "self-play 1 generate, shard 0"),
        (["train"], TRAINED, "self-play 1 train"),
    ],
)
def test_the_log_of_the_one_that_is_meant_is_printed(logs, kubeflow, arguments, meant, title):
    result = logs(*arguments)
    assert result.code == 0, result.err
    assert result.out == kubeflow.archived_logs[pod_name(meant)]
    assert result.err == f"{title}: pod {pod_name(meant)}\n"


@pytest.mark.parametrize("arguments", [["generate"], ["generate", "--iteration", "1"]])
def test_several_are_listed_with_what_chooses_each(logs, arguments):
    result = logs(*arguments)
    assert result.code == 0, result.err
    assert result.out.splitlines() == [
        "generate --iteration 1 --shard 0  succeeded  0:00:09",
        "generate --iteration 1 --shard 1  succeeded  0:00:10",
    ]
    for line in result.out.splitlines():
        flags = line.partition("  ")[0].split()
        assert "generate 2" in logs(*flags).out


def test_without_a_stage_a_run_that_goes_on_is_listed(logs):
    running = snapshot("RUNNING", PREPARED, task("train", "Running", start=26, iteration=1))
    assert logs(script=[running]).out.splitlines() == [
        "prepare              succeeded  0:00:07",
        "train --iteration 1  running",
    ]


def test_without_a_stage_that_of_what_failed_is_printed_its_last_attempt(logs):
    result = logs(script=[snapshot("FAILED", PREPARED, *SHARDS, TRAINED, FAILED)])
    assert "train 70 1\n" in result.out
    assert result.err == f"self-play 2 train: attempt 2 of 2, pod {pod_name(FAILED, 1)}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "run-0: no such task has begun; those that have: prepare; generate --iteration 1 --shard 0; "),
        (["train", "--iteration", "2"], "run-0: no such task has begun; "),
        (["training"], "training: no stage; the stages are prepare, generate, rank, train, evaluate, publish, bench"),
    ],
)
def test_what_has_not_begun_is_refused(logs, arguments, message):
    result = logs(*arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err


def test_what_is_no_run_is_refused(sppo, kubeflow):
    assert "give the id of a run" in sppo("logs", "s3://b/r", "--host", kubeflow.address).err
    assert "404 Run run-7 not found" in sppo("logs", "run-7", "--host", kubeflow.address).err


def test_a_log_that_cannot_be_read_ends_with_3(logs, kubeflow):
    kubeflow.fail("GET v1alpha1/", 403)
    result = logs("prepare")
    assert result.code == 3 and "403 injected" in result.err
    kubeflow.archived_logs.clear()
    result = logs("prepare")
    assert result.code == 3 and "error: the API server has no log of pod sppo-" in result.err


def growing(kubeflow, monkeypatch, *texts: str | None):
    """Lets a pod's log be each of these, one for each time that it is asked for."""
    left = list(texts)
    answer = kubeflow._log
    kubeflow.multi_user = True

    def told(run_id, node):
        if node == pod_name(TRAINED):
            text = left.pop(0) if len(left) > 1 else left[0]
            kubeflow.archived_logs.pop(node, None)
            kubeflow.pod_logs = {} if text is None else {node: text}
        return answer(run_id, node)

    monkeypatch.setattr(kubeflow, "_log", told)


def test_a_log_is_followed_to_its_end(logs, kubeflow, monkeypatch):
    """The server has no way to follow: it is asked again and again, and only what is new and whole is printed.

    At last it reads the archive, without blank lines (backend/src/apiserver/archive/log.go:284).
    """
    running = snapshot("RUNNING", PREPARED, TRAINED._replace(phase="Running", end=0))
    pending = snapshot("RUNNING", PREPARED, TRAINED._replace(phase="Pending", end=0))
    texts = [None, None, "one\n\ntw", "one\n\ntwo\nthree\n", "one\ntwo\nthree\nfour\n"]
    growing(kubeflow, monkeypatch, *texts)
    result = logs("train", "--follow", script=[pending, pending, running, running, snapshot("FAILED", TRAINED)])
    assert result.code == 0, result.err
    assert result.out == "one\ntwo\nthree\nfour\n"
    assert result.err == f"self-play 1 train: pod {pod_name(TRAINED)}\n"


def test_the_next_attempt_is_followed_too(logs, kubeflow):
    first = FAILED._replace(phase="Running", end=0, messages=("",))
    second = FAILED._replace(phase="Running", end=0)
    result = logs(
        "train",
        "--follow",
        script=[snapshot("RUNNING", first), snapshot("RUNNING", second), snapshot("FAILED", FAILED)],
    )
    assert [line for line in result.out.splitlines() if "train" in line] == ["train 70 0", "train 70 1"]
    assert result.err.splitlines() == [
        f"self-play 2 train: pod {pod_name(FAILED)}",
        f"self-play 2 train: attempt 2 of 2, pod {pod_name(FAILED, 1)}",
    ]
