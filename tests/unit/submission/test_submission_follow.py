"""`sppo submit --wait` and `sppo resume RUN_ID --host`: the stages shown, the exit codes, the reports."""

import base64
import gzip
import io
import re
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from xml.etree import ElementTree

import pytest
from rich.console import Console
from sppo_pipelines.submission.client import Client
from sppo_pipelines.submission.follow import follow

from sppo.process.told import tell

from . import argo
from .argo import gate, task
from .conftest import TOKEN, snapshot

PLAYED = (
    task("prepare", start=3, end=10),
    task("generate", start=11, end=20, iteration=1, shard=0),
    task("generate", start=11, end=22, iteration=1, shard=1),
    task("rank", start=22, end=25, iteration=1, shard=0),
    task("rank", start=22, end=26, iteration=1, shard=1),
    task("train", start=26, end=40, iteration=1),
    task("evaluate", start=40, end=60, iteration=1),
    task("generate", start=60, end=70, iteration=2, shard=0),
    task("generate", start=60, end=71, iteration=2, shard=1),
    task("rank", start=71, end=75, iteration=2, shard=0),
    task("rank", start=71, end=76, iteration=2, shard=1),
    task("launch", start=76, end=90, iteration=2),  # trains over several nodes
    task("evaluate", start=90, end=100, iteration=2),
    task("publish", start=101, end=110),
)
PASSED = snapshot("SUCCEEDED", *PLAYED, *gate(True, 111, 115), finished_at="2026-01-01T00:02:00Z")
FAILED_GATE = snapshot("SUCCEEDED", *PLAYED, *gate(False, 111, 115))
BROKEN = task("evaluate", "Failed", start=40, end=60, iteration=1, messages=["main: Error (exit code 1)"])
FAILED = snapshot("FAILED", *PLAYED[:6], BROKEN, finished_at="2026-01-01T00:01:00Z")
RUNNING = snapshot("RUNNING", *PLAYED[:2], task("generate", "Running", start=11, iteration=1, shard=1))
BEGUN = snapshot("PENDING")
CONFIGURED = {"runtime_config": {"parameters": {"output_uri": "s3://bucket/run"}}}


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ([PASSED], 0, ""),
        ([FAILED_GATE], 5, "the run succeeded; the gate is not passed: http"),
        ([snapshot("CANCELING"), snapshot("CANCELED", *PLAYED[:4])], 4, "somebody ended the run: http"),
        ([snapshot("PAUSED"), snapshot("SKIPPED")], 4, "the run skipped: http"),
        ([snapshot("FAILED")], 4, "`sppo resume run-0 --host http"),
        ([snapshot("SUCCEEDED", *PLAYED)], 3, "its gate is not known: no branch of its workflow tells it; look at"),
        ([snapshot("SUCCEEDED")], 3, "its gate is not known"),
    ],
)
def test_the_outcome_is_the_exit_code(submit, kubeflow, script, code, message):
    kubeflow.script = [BEGUN, RUNNING, *script]
    result = submit("--wait")
    assert result.code == code, result.err
    assert message in result.err and result.err.count("\n") == (code != 0)
    if code == 0:
        assert result.out.endswith("the run succeeded; the gate is passed\n")


def test_a_run_that_somebody_terminated_has_not_failed(submit, kubeflow):
    """Kubeflow calls it FAILED; what tells is the deadline of 0 that ends it."""
    killed = task("train", "Failed", start=26, end=30, iteration=1, messages=["workflow shutdown"])
    kubeflow.script = [RUNNING, snapshot("FAILED", *PLAYED[:5], killed, terminated=True)]
    result = submit("--wait")
    assert result.code == 4
    assert "somebody ended the run: http" in result.err and result.err.count("\n") == 1
    assert "self-play 1 train: canceled" in result.out
    assert not [request for request in kubeflow.requests if request.line.startswith("GET v1alpha1")]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("retried", [False, True])
def test_every_change_is_one_line(submit, kubeflow, compressed, retried):
    """Also of a workflow whose nodes Argo compresses, and where nothing has a retry strategy."""
    form = {"compressed": compressed, "retried": retried}
    shard = task("generate", "Running", start=11, iteration=1, shard=1)
    running = snapshot("RUNNING", *PLAYED[:2], shard, **form)
    kubeflow.script = [BEGUN, running, running, snapshot("SUCCEEDED", *PLAYED, *gate(True, 111, 115), **form)]
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


def test_a_state_that_is_empty_is_not_shown(submit, kubeflow):
    kubeflow.script = [BEGUN, snapshot(""), RUNNING, PASSED]
    result = submit("--wait")
    assert result.code == 0, result.err
    assert re.findall(r"\d\d run: (.*)", result.out) == ["running", "succeeded"]


def test_an_iteration_that_is_tried_again_is_shown_once(submit, kubeflow):
    """Argo may try a whole group again: its tasks are there twice then, and the later ones count."""
    first, again = (argo.manifest(*PLAYED[:4], task("rank", phase, 22, 25, 1, 1)) for phase in ("Error", "Succeeded"))
    renamed = {
        key + "9": {**node, "id": node["id"] + "9", "name": node["name"].replace("self-play-1(0)", "self-play-1(1)")}
        for key, node in again["status"]["nodes"].items()
        if "self-play-1(0)" in node["name"]
    }
    for node in renamed.values():
        node["startedAt"] = node["startedAt"].replace("T00", "T01")
    first["status"]["nodes"] |= renamed
    kubeflow.script = [RUNNING, {**snapshot("RUNNING"), "workflow": first}, PASSED]
    assert "self-play 1 rank: succeeded (2 of 2 shards)" in submit("--wait").out.partition("train")[0]
    assert "failed" not in submit("--wait").out


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
    assert f"the run goes on, and `sppo resume run-0 --host {kubeflow.address} --wait` follows it" in result.err
    assert "it goes on if this command ends" in result.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_wait_leaves_the_run_alone(kubeflow, failed_run, number):
    kubeflow.script = [RUNNING]
    program = "import sys, sppo_pipelines.cli as cli; sys.argv = ['sppo', *sys.argv[1:]]; cli.main()"
    command = [sys.executable, "-c", program, "resume", "run-0", "--host", kubeflow.address, "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "run: running" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait() == 128 + number
        again = f"`sppo resume run-0 --host {kubeflow.address} --wait` follows it again"
        assert process.stderr.read() == f"stopped: the run goes on, and {again}\n"
    assert {request.line for request in kubeflow.requests} == {"GET runs/run-0", "GET v1beta1/runs/run-0"}


def test_a_report_that_cannot_be_written_does_not_hide_how_the_run_ended(submit, kubeflow, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    kubeflow.script = [RUNNING, snapshot("SUCCEEDED", *PLAYED)]
    plain = submit("--wait", "--junit", str(tmp_path / "junit.xml"))
    assert (tmp_path / "junit.xml").is_file(), "one that fails does not keep the other away"
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    kubeflow.script = [RUNNING, snapshot("SUCCEEDED", *PLAYED)]
    assert plain.code == submit("--wait").code
    assert f"warning: a report of the run was not written: [Errno 21] Is a directory: '{tmp_path}'" in plain.err


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


VERDICT = ("Better than the base, by *much*.", "pass: 64 held-out prompts were answered", "caution: <b>cut</b>")


@pytest.mark.parametrize(("script", "code"), [(PASSED, 0), (FAILED_GATE, 5)])
def test_the_verdict_is_read_from_what_publish_said(submit, kubeflow, monkeypatch, tmp_path, script, code):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    kubeflow.script = [RUNNING, script]
    with redirect_stdout(io.StringIO()) as said:
        tell(VERDICT)
    log = argo.stage_log("publishing", *said.getvalue().splitlines(), code=0)
    kubeflow.archived_logs[argo.pod_name(PLAYED[-1])] = log
    result = submit("--wait")
    assert result.code == code
    assert "\n".join(VERDICT) in result.out
    assert "\n- Better than the base, by \\*much\\*.\n" in summary.read_text()
    assert "\n- caution: &lt;b&gt;cut&lt;/b&gt;\n" in summary.read_text()


def test_a_verdict_that_cannot_be_read_is_no_failure(submit, kubeflow):
    kubeflow.script = [RUNNING, PASSED]
    result = submit("--wait")
    assert result.code == 0 and "\nits verdict cannot be read: " in result.out


@pytest.fixture
def failed_run(kubeflow):
    kubeflow.script = [FAILED]
    kubeflow.runs = [{"run_id": "run-0", "display_name": "my run", **FAILED, **CONFIGURED}]
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


def test_a_retry_that_the_server_cannot_write_is_not_asked_for(sppo, failed_run):
    """It writes all nodes uncompressed, which is more than etcd takes (kubeflow/pipelines#13738)."""
    failed_run.script = [snapshot("FAILED", *PLAYED[:6], BROKEN, compressed=True, padding=100_000)]
    result = sppo("resume", "run-0", "--host", failed_run.address, "--wait")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "run-0: its workflow is too large for Kubeflow to retry; " in result.err
    assert (
        "submit again with the same output_uri (s3://bucket/run): that plays only what is missing there" in result.err
    )
    assert {request.line for request in failed_run.requests} == {"GET runs/run-0", "GET v1beta1/runs/run-0"}


@pytest.mark.parametrize("padding", [0, 30_000])
def test_what_the_server_can_write_is_retried(sppo, failed_run, padding):
    """Pods that failed are left out; with them this would be too large."""
    broken = [task("rank", "Failed", 22, 26, 1, shard, messages=[""] * 20) for shard in range(3)]
    failed_run.script = [snapshot("FAILED", *PLAYED[:3], *broken, compressed=True, padding=padding)]
    failed_run.after_retry = [RUNNING]
    assert sppo("resume", "run-0", "--host", failed_run.address).code == 0
    assert len(failed_run.sent("POST runs/run-0:retry")) == 1


@pytest.mark.parametrize("kind", [500, "slow", "reset", "truncated"])
def test_a_retry_whose_answer_is_lost_is_not_sent_twice(sppo, failed_run, kind):
    failed_run.after_retry = [RUNNING]
    failed_run.fail("POST runs/run-0:retry", kind, late=True)
    assert sppo("resume", "run-0", "--host", failed_run.address).code == 0
    assert len(failed_run.sent("POST runs/run-0:retry")) == 1


PACKED = base64.b64encode(gzip.compress(b"{}", mtime=0)).decode()
BAD_NODES = [PACKED[:16], PACKED[:20] + "AAAA" + PACKED[24:], "eA==", "x"]


@pytest.mark.parametrize(
    "manifest",
    [
        "{",
        "[]",
        '{"metadata": {}}',
        *[f'{{"metadata": {{}}, "status": {{"compressedNodes": "{n}"}}}}' for n in BAD_NODES],
    ],
)
def test_a_manifest_that_cannot_be_read_is_told(sppo, failed_run, manifest):
    failed_run.script = [{**RUNNING, "workflow": manifest}]
    result = sppo("resume", "run-0", "--host", failed_run.address)
    assert (result.code, result.err.count("\n")) == (3, 1)
    assert "the run's workflow manifest cannot be read" in result.err


@pytest.mark.parametrize(("script", "code"), [([RUNNING, PASSED], 0), ([FAILED_GATE], 5)])
def test_resume_follows_a_run_that_needs_no_retry(sppo, failed_run, script, code):
    failed_run.script = script
    result = sppo("resume", "run-0", "--host", failed_run.address, "--wait")
    assert result.code == code
    assert "there is nothing to retry" in result.out and not failed_run.sent("POST runs/run-0:retry")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run-7"], "GET runs/run-7: 404 Run run-7 not found; correct the name"),
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
