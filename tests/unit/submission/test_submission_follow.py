"""`sppo submit --wait` and `sppo resume RUN_ID --host`: the stages shown, the exit codes, the reports."""

import io
import re
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from rich.console import Console

from pipelines.submission.client import Client
from pipelines.submission.follow import follow

from .conftest import TOKEN, snapshot, task

PLAYED = (
    task("root", "RUNNING"),
    task("prepare-driver", start=1, end=2),
    task("prepare", start=3, end=10),
    task("self-play", start=10, end=60),
    task("iteration-item", start=10, end=30),
    task("generate", start=11, end=20),
    task("generate", start=11, end=22),
    task("rank", start=22, end=25),
    task("rank", start=22, end=26),
    task("train", start=26, end=40),
    task("evaluate", start=40, end=60),
    task("condition-3", start=60, end=100),
    task("condition-4", "SKIPPED", start=60, end=60),
    task("generate", start=60, end=70),
    task("generate", start=60, end=71),
    task("rank", start=71, end=75),
    task("rank", start=71, end=76),
    task("train", start=76, end=90),
    task("evaluate", start=90, end=100),
    task("publish", start=101, end=110),
)
PASSED = snapshot("SUCCEEDED", *PLAYED, task("gate-passed", start=111, end=115), finished_at="2026-01-01T00:02:00Z")
FAILED_GATE = snapshot("SUCCEEDED", *PLAYED, task("gate-failed", start=111, end=115))
FAILED = snapshot(
    "FAILED", *PLAYED[:10], task("evaluate", "FAILED", start=40, end=60), finished_at="2026-01-01T00:01:00Z"
)
RUNNING = snapshot("RUNNING", *PLAYED[:4], task("generate", start=11, end=20), task("generate", "RUNNING", start=11))


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ([PASSED], 0, ""),
        ([FAILED_GATE], 5, "the run succeeded; the gate is not passed: http"),
        ([FAILED], 4, "the run failed in self-play 1 evaluate: http"),
        ([snapshot("RUNNING"), snapshot("CANCELING"), snapshot("CANCELED", *PLAYED[:4])], 4, "the run canceled: http"),
        ([snapshot("PAUSED"), snapshot("SKIPPED")], 4, "the run skipped: http"),
        ([snapshot("FAILED")], 4, "`sppo resume run-0 --host …` retries what failed"),
        ([snapshot("SUCCEEDED", *PLAYED)], 3, "its gate is not known: the server lists no task that tells it; look at"),
        ([{"state": "SUCCEEDED"}], 3, "its gate is not known"),
    ],
)
def test_the_outcome_is_the_exit_code(submit, kubeflow, script, code, message):
    kubeflow.script = [snapshot("PENDING"), RUNNING, *script]
    result = submit("--wait")
    assert result.code == code, result.err
    assert message in result.err and result.err.count("\n") == (code != 0)
    if code == 0:
        assert result.out.endswith("the run succeeded; the gate is passed\n")


def test_a_gate_that_is_told_late_counts(submit, kubeflow):
    """The server may tell a run's end before the last of its tasks."""
    kubeflow.script = [RUNNING, snapshot("SUCCEEDED", *PLAYED), snapshot("SUCCEEDED", *PLAYED), FAILED_GATE]
    assert submit("--wait").code == 5


def test_every_change_is_one_line(submit, kubeflow):
    kubeflow.script = [snapshot("PENDING"), RUNNING, RUNNING, PASSED]
    lines = [line[9:] for line in submit("--wait").out.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert lines == [
        "prepare: succeeded",
        "self-play 1 generate: running (1 of 2 shards)",
        "run: running",
        "self-play 1 generate: succeeded (2 of 2 shards)",
        "self-play 1 rank: succeeded (2 of 2 shards)",
        "self-play 1 train: succeeded",
        "self-play 1 evaluate: succeeded",
        "self-play 2 generate: succeeded (2 of 2 shards)",
        "self-play 2 rank: succeeded (2 of 2 shards)",
        "self-play 2 train: succeeded",
        "self-play 2 evaluate: succeeded",
        "publish: succeeded",
        "run: succeeded",
    ]


def test_a_terminal_shows_a_tree(kubeflow):
    kubeflow.runs = [{"run_id": "run-0", "display_name": "my run", "state": "RUNNING"}]
    kubeflow.script = [RUNNING, PASSED]
    screen = io.StringIO()
    follow(Client(kubeflow.address), "run-0", Console(file=screen, force_terminal=True, width=80))
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue()).rpartition("my run")[2]
    assert [line.strip() for line in last.splitlines()[:6]] == [
        ": succeeded",
        "├── prepare: succeeded, 0:00:07",
        "├── self-play 1",
        "│   ├── generate: succeeded (2 of 2 shards), 0:00:11",
        "│   ├── rank: succeeded (2 of 2 shards), 0:00:04",
        "│   ├── train: succeeded, 0:00:14",
    ]


@pytest.mark.parametrize("kind", [500, 429, "slow", "truncated", "cut", "reset"])
def test_faults_while_waiting_are_outlasted(submit, kubeflow, kind):
    kubeflow.script = [RUNNING, PASSED]
    kubeflow.fail("GET runs/", kind, times=3)
    assert submit("--wait").code == 0


@pytest.mark.parametrize(("kind", "message"), [(500, "500 injected, Bearer *** (4 tries)"), (401, "set a new one")])
def test_a_server_that_goes_away_ends_the_waiting_with_3(submit, kubeflow, kind, message):
    kubeflow.fail("GET runs/", kind, times=100)
    result = submit("--wait")
    assert (result.code, result.err.count("\n")) == (3, 1)
    assert message in result.err
    assert "it goes on if this command ends" in result.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_wait_leaves_the_run_alone(kubeflow, failed_run, number):
    kubeflow.script = [RUNNING]
    program = "import sys, pipelines.cli as cli; sys.argv = ['sppo', *sys.argv[1:]]; cli.main()"
    command = [sys.executable, "-c", program, "resume", "run-0", "--host", kubeflow.address, "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "run: running" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait() == 128 + number
        assert process.stderr.read() == ""
    assert {request.line for request in kubeflow.requests} == {"GET runs/run-0"}


@pytest.mark.parametrize(
    ("script", "gate", "failures", "errors"),
    [
        (PASSED, "the gate is passed", [], []),
        (FAILED_GATE, "the gate is not passed", ["gate"], []),
        (FAILED, "the run failed in self-play 1 evaluate", ["self-play 1 evaluate", "run"], []),
        (snapshot("SUCCEEDED", *PLAYED), "its gate is not known", [], ["gate"]),
    ],
)
def test_reports_for_ci(submit, kubeflow, monkeypatch, tmp_path, script, gate, failures, errors):
    summary, junit = tmp_path / "summary.md", tmp_path / "new" / "junit.xml"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    kubeflow.script = [RUNNING, script]
    submit("--wait", "--junit", str(junit))

    text = summary.read_text()
    assert text.startswith("before\n## SPPO: ") and gate in text.splitlines()[1]
    assert f"({kubeflow.address}/#/runs/details/run-0)" in text
    assert "| self-play 1 generate | succeeded | 2 | 0:00:11 |" in text
    suite = ElementTree.parse(junit).getroot()
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases if case.find("failure") is not None] == failures
    assert [case.get("name") for case in cases if case.find("error") is not None] == errors
    assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), str(len(failures)))
    assert TOKEN not in text + junit.read_text()


@pytest.fixture
def failed_run(kubeflow):
    kubeflow.script = [FAILED]
    kubeflow.runs = [{"run_id": "run-0", "display_name": "my run", **FAILED}]
    return kubeflow


def test_resume_retries_a_failed_run_on_the_server(sppo, failed_run):
    failed_run.after_retry = [RUNNING, FAILED, RUNNING, PASSED]  # one answer from before the retry comes late
    result = sppo("resume", "run-0", "--host", failed_run.address, "--wait")
    assert result.code == 0, result.err
    assert "the server retries what failed" in result.out
    assert len(failed_run.sent("POST runs/run-0:retry")) == 1


def test_resume_without_waiting_ends_at_once(sppo, failed_run):
    failed_run.after_retry = [RUNNING]
    assert sppo("resume", "run-0", "--host", failed_run.address).code == 0
    assert failed_run.requests[-1].line == "POST runs/run-0:retry"


def test_a_retry_that_fails_again_ends_with_4(sppo, failed_run):
    failed_run.after_retry = [RUNNING, {**FAILED, "finished_at": "2026-01-01T00:09:00Z"}]
    assert sppo("resume", "run-0", "--host", failed_run.address, "--wait").code == 4


def test_a_retry_that_leads_nowhere_ends_with_4(sppo, failed_run):
    failed_run.after_retry = [FAILED]
    assert sppo("resume", "run-0", "--host", failed_run.address, "--wait").code == 4


@pytest.mark.parametrize("kind", [500, "slow", "reset", "truncated"])
def test_a_retry_whose_answer_is_lost_is_not_sent_twice(sppo, failed_run, kind):
    failed_run.after_retry = [RUNNING]
    failed_run.fail("POST runs/run-0:retry", kind, late=True)
    assert sppo("resume", "run-0", "--host", failed_run.address).code == 0
    assert len(failed_run.sent("POST runs/run-0:retry")) == 1


@pytest.mark.parametrize(("script", "code"), [([RUNNING, PASSED], 0), ([FAILED_GATE], 5)])
def test_resume_follows_a_run_that_needs_no_retry(sppo, failed_run, script, code):
    failed_run.script = script
    result = sppo("resume", "run-0", "--host", failed_run.address, "--wait")
    assert result.code == code
    assert "there is nothing to retry" in result.out and not failed_run.sent("POST runs/run-0:retry")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run-7"], "404 Run run-7 not found; correct the name"),
        (["s3://bucket/run"], "s3://bucket/run: with --host, give the id of a run"),
        (["run-0", "--junit", "x.xml"], "--junit reports a run's end: give --wait too"),
    ],
)
def test_what_is_no_run_there_is_refused(sppo, failed_run, arguments, message):
    result = sppo("resume", *arguments, "--host", failed_run.address)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err


def test_a_folder_is_resumed_here(sppo, tmp_path):
    result = sppo("resume", str(tmp_path / "none"))
    assert result.code == 2 and "no run was started there" in result.err
    assert "--wait follows a run on a cluster: give --host too" in sppo("resume", str(tmp_path), "--wait").err
