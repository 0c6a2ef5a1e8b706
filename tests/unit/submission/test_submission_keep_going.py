"""`sppo keep-going`: which runs of a namespace it resumes, how often, and with which rights."""

import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from sppo_pipelines.submission import credentials, resume
from sppo_pipelines.submission.client import Client
from sppo_pipelines.submission.keep_going import KEY, look_once

from sppo.store.s3 import S3Store

from .argo import pod_name, stage_log, task
from .conftest import TOKEN, snapshot
from .test_submission_reason import AWAY, MISSING, broken
from .test_submission_resume import too_large

ROOT = Path(__file__).parents[3]
COMPONENT = ROOT / "manifests" / "components" / "keep-going"
LOST = broken("train", iteration=1, messages=["pod deleted"])
TRAINED = broken("train", iteration=1)


def ago(minutes: float) -> str:
    return f"{datetime.now(UTC) - timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
def add(kubeflow, s3):
    """Puts a run onto the server that failed, by default long enough ago, and whose output is in S3."""
    kubeflow.script = []

    def put(end=None, minutes: float = 7, **told) -> str:
        end = end or snapshot("FAILED", LOST)
        number = len(kubeflow.runs)
        run = {"run_id": f"run-{number}", "display_name": f"my {number}", "experiment_id": "experiment-0", **end}
        times = {"created_at": ago(600 - number), "finished_at": ago(minutes)}
        uri = told.pop("output_uri", f"{s3.uri}/{number}")
        kubeflow.runs.append({**run, **times, "runtime_config": {"parameters": {"output_uri": uri}}, **told})
        return str(run["run_id"])

    return put


@pytest.fixture
def look(sppo, kubeflow):
    """Runs `sppo keep-going` against the server."""
    return lambda *flags: sppo("keep-going", "--host", kubeflow.address, *flags)


def retried(kubeflow) -> list[str]:
    return [request.line.split("/")[1].partition(":")[0] for request in kubeflow.requests if ":retry" in request.line]


def kept(s3, number: int = 0) -> list[dict]:
    store = S3Store(f"{s3.uri}/{number}")
    return [json.loads(store.read(f"{KEY}/{name}")) for name in sorted(store.entries(KEY))]


def test_a_run_that_infrastructure_ended_is_resumed_and_that_is_counted_in_its_store(add, look, kubeflow, s3):
    run_id = add()
    ended = kubeflow.runs[0]["finished_at"]
    result = look()
    assert result.code == 0, result.err
    assert retried(kubeflow) == [run_id]
    assert "my 0 (run-0): the run failed in self-play 1 train: resume 1 of 3\n" in result.out
    (once,) = kept(s3)
    assert (once["run_id"], once["finished_at"]) == (run_id, ended)
    assert look().code == 0
    assert retried(kubeflow) == [run_id], "it goes on"


def test_a_stage_that_ended_with_3_counts(add, look, kubeflow):
    kubeflow.archived_logs[pod_name(TRAINED)] = stage_log(AWAY, code=3)
    add(snapshot("FAILED", TRAINED))
    assert look().code == 0 and retried(kubeflow) == ["run-0"]


def test_no_run_is_resumed_more_often_than_that(add, look, kubeflow, s3, monkeypatch):
    monkeypatch.setattr(resume, "FIRST_PAUSE", 0)
    add()
    for minutes in (9, 8, 7):
        kubeflow.runs[0].update(state="FAILED", finished_at=ago(minutes))
        result = look("--times", "2")
    assert len(retried(kubeflow)) == len(kept(s3)) == 2
    assert f"left alone: it was resumed 2 times; delete {s3.uri}/0/tracking/keep-going to begin anew" in result.out
    assert result.code == 0


def test_each_resume_waits_twice_as_long_as_the_one_before(add, look, kubeflow, s3):
    add(minutes=4)
    result = look()
    assert retried(kubeflow) == [] and kept(s3) == []
    due = datetime.fromisoformat(kubeflow.runs[0]["finished_at"]) + timedelta(minutes=5)
    assert f"resume 1 of 3 not before {due:%H:%M} UTC" in result.out
    kubeflow.runs[0].update(finished_at=ago(5))
    look()
    kubeflow.runs[0].update(state="FAILED", finished_at=ago(0))
    look()
    assert len(retried(kubeflow)) == 1
    old = {"run_id": "run-0", "finished_at": ago(20), "resumed_at": f"{datetime.now(UTC) - timedelta(minutes=12)}"}
    S3Store(f"{s3.uri}/0").write(f"{KEY}/1.json", json.dumps(old).encode())
    kubeflow.runs[0].update(finished_at=ago(9))
    look()
    assert len(retried(kubeflow)) == 1, "its end is nine minutes ago"
    kubeflow.runs[0].update(finished_at=ago(11))
    look()
    assert len(retried(kubeflow)) == 2


@pytest.mark.parametrize(
    ("end", "told", "said"),
    [
        (snapshot("FAILED", TRAINED), {}, "left alone: the run failed in self-play 1 train"),
        (snapshot("FAILED", LOST, terminated=True), {}, "left alone: somebody ended the run"),
        (snapshot("FAILED", LOST, shutdown="Terminate"), {}, "left alone: somebody ended the run"),
        (snapshot("FAILED", LOST), {"storage_state": "ARCHIVED"}, ""),
        (snapshot("FAILED", LOST), {"output_uri": "runs/here"}, ""),
        (snapshot("FAILED", LOST), {"runtime_config": {}}, ""),
        (snapshot("FAILED", LOST), {"minutes": 25 * 60}, ""),
        (snapshot("SUCCEEDED", task("publish")), {}, ""),
        (snapshot("RUNNING", LOST), {}, ""),
    ],
)
def test_other_runs_are_left_alone(add, look, kubeflow, s3, end, told, said):
    kubeflow.archived_logs[pod_name(TRAINED)] = stage_log(MISSING, code=2)
    add(end, **told)
    result = look()
    assert result.code == 0, result.err
    assert retried(kubeflow) == kept(s3) == []
    assert result.out == (f"my 0 (run-0): {said}\n" if said else "")


def test_another_pipeline_that_has_such_a_parameter_is_left_alone(add, look, kubeflow):
    end = snapshot("FAILED", LOST)
    end["workflow"]["metadata"]["generateName"] = "sppo-of-somebody-else-"
    add(end)
    assert "left alone: it plays sppo-of-somebody-else\n" in look().out
    assert retried(kubeflow) == []


def test_what_was_submitted_again_is_left_alone(add, look, kubeflow, s3):
    for uri in (f"{s3.uri}/same", f"{s3.uri}/other", f"{s3.uri}/same/"):
        add(output_uri=uri)
    result = look()
    assert sorted(retried(kubeflow)) == ["run-1", "run-2"]
    assert "my 0 (run-0): left alone: run run-2 is newer and has the same output_uri\n" in result.out


def test_a_run_too_large_to_retry_is_submitted_anew_once(add, look, kubeflow, s3):
    add(too_large(LOST))
    assert look().code == 0
    old, new = kubeflow.runs
    assert retried(kubeflow) == [] and len(kept(s3)) == 1
    assert new["runtime_config"] == old["runtime_config"] and new["experiment_id"] == "experiment-0"
    assert "left alone: run run-1 is newer" in look().out
    assert len(kubeflow.runs) == 2


def test_of_two_looks_at_once_one_resumes(add, kubeflow, s3, capsys):
    add(too_large(LOST))
    barrier = threading.Barrier(2)

    class Together(Client):
        """Waits for the other look before what only one may do."""

        def runs(self, *wanted):
            yield from super().runs(*wanted)
            barrier.wait(timeout=30)

    looks = [threading.Thread(target=look_once, args=(Together(kubeflow.address), 3, 24)) for _ in range(2)]
    for each in looks:
        each.start()
    for each in looks:
        each.join()
    assert len(kubeflow.sent("POST runs")) == len(kept(s3)) == 1
    assert "left alone: another look resumes it" in capsys.readouterr().out


def test_a_count_whose_answer_is_lost_is_this_looks_own(add, look, kubeflow, s3):
    add()
    s3.fail("PUT", f"{KEY}/1.json", late=True)
    assert look().code == 0
    assert retried(kubeflow) == ["run-0"] and len(kept(s3)) == 1


def test_a_resume_that_fails_counts_and_is_tried_again_later(add, look, kubeflow, s3):
    add()
    kubeflow.fail("POST runs/run-0:retry", 500, times=6)
    result = look()
    assert result.code == 3 and "1 of the runs could not be looked at or resumed; the lines above say why" in result.err
    assert "my 0 (run-0): http" in result.out and len(kept(s3)) == 1
    assert "resume 2 of 3 not before" in look().out


def test_without_its_store_a_run_is_not_resumed_and_the_others_are(add, look, kubeflow, s3):
    add(), add()
    s3.fail("GET", "/some/run/1/", status=403, code="AccessDenied")
    result = look()
    assert (result.code, result.err.count("\n")) == (3, 1)
    assert f"my 1 (run-1): {s3.uri}/1/{KEY}/1.json: " in result.out and "AccessDenied" in result.out
    assert retried(kubeflow) == ["run-0"]


def test_a_count_that_is_none_is_told(add, look, kubeflow, s3):
    add()
    S3Store(f"{s3.uri}/0").write(f"{KEY}/1.json", b"[]")
    assert f"{s3.uri}/0/{KEY}/1.json: cannot be read; delete it" in look().out
    assert retried(kubeflow) == []


def test_all_pages_are_looked_at(add, look, kubeflow):
    add()
    for _ in range(100):
        add(runtime_config={})
    assert look().code == 0 and retried(kubeflow) == ["run-0"]
    assert [request.query.get("page_token") for request in kubeflow.sent("GET runs")][:2] == [None, "100"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--times", "-1"], "--times"), *((["--hours", each], "--hours") for each in ("0", "inf", "nan", "1e9"))],
)
def test_a_number_without_a_meaning_is_refused(look, kubeflow, flags, message):
    result = look(*flags)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err and kubeflow.requests == []


def test_a_server_that_is_gone_ends_with_3(look, kubeflow):
    kubeflow.fail("GET runs", 503, times=6)
    assert look().code == 3


@pytest.fixture
def cron_job(kubeflow, sppo, monkeypatch, tmp_path):
    """What the CronJob of manifests/components/keep-going runs, where Kubeflow has users; the pod's token signs in."""
    job = yaml.safe_load((COMPONENT / "cronjob.yaml").read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    (mount,), ((volume,),) = container["volumeMounts"], [each["projected"]["sources"] for each in job["volumes"]]
    token = volume["serviceAccountToken"]
    assert f"{mount['mountPath']}/{token['path']}" == credentials.SERVICE_ACCOUNT_TOKEN
    assert token["audience"] == "pipelines.kubeflow.org"
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.delenv("SPPO_KFP_TOKEN")
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT_TOKEN", str(tmp_path / "token"))
    kubeflow.accepted, kubeflow.multi_user = {"Authorization": f"Bearer {TOKEN}"}, True
    there = {"http://ml-pipeline.kubeflow:8888": kubeflow.address, "$(NAMESPACE)": "team"}
    (command, *flags) = container["args"]
    given = [flag.partition("=")[::2] for flag in flags]
    return lambda: sppo(command, *(f"{name}={there.get(value, value)}" for name, value in given))


def granted() -> set[str]:
    role = next(each for each in yaml.safe_load_all((COMPONENT / "role.yaml").read_text()) if each["kind"] == "Role")
    (rule,) = role["rules"]
    assert (rule["apiGroups"], rule["resources"]) == (["pipelines.kubeflow.org"], ["runs"])
    return set(rule["verbs"])


def test_the_cron_job_may_do_what_it_does_and_no_more(cron_job, add, kubeflow):
    add(), add(too_large(LOST))
    kubeflow.granted = granted()
    result = cron_job()
    assert result.code == 0, result.err + result.out
    assert retried(kubeflow) == ["run-0"] and len(kubeflow.runs) == 3
    assert kubeflow.used == granted()
    asked = {request.line.split()[1].partition("/")[0] for request in kubeflow.requests}
    assert asked == {"runs", "v1beta1"}, "whatever else it asked for would need a right too"
    assert {request.query.get("namespace") for request in kubeflow.sent("GET runs")} == {"team", None}


@pytest.mark.parametrize("verb", sorted(granted()))
def test_without_one_of_its_rights_the_cron_job_says_so(cron_job, add, kubeflow, verb):
    add(), add(too_large(LOST))
    kubeflow.granted = granted() - {verb}
    result = cron_job()
    assert result.code == 3 and f"403 not authorized to {verb} runs" in result.out + result.err


BLOCKED = """
import sys
from importlib import metadata

have = set(sys.argv.pop(1).split())


class Blocked:
    def find_spec(self, name, path=None, target=None):
        owners = packages.get(name.partition(".")[0])
        if owners and not {owner.lower().replace("_", "-") for owner in owners} & have:
            raise ModuleNotFoundError(f"{name} is not in the image")


packages = metadata.packages_distributions()
sys.meta_path.insert(0, Blocked())
import sppo_pipelines.cli as cli

cli.main()
"""


@pytest.fixture
def command(kubeflow):
    """`sppo keep-going` with the packages of the image `prepare`; of kfp that has only what starts a component."""
    text = (ROOT / "images" / "prepare" / "requirements.txt").read_text()
    have = {line.partition("==")[0] for line in text.splitlines() if "==" in line} - {"kfp"} | {"sppo"}
    return [sys.executable, "-c", BLOCKED, " ".join(have), "keep-going", "--host", kubeflow.address]


def test_the_image_of_prepare_has_all_that_it_imports(add, kubeflow, command):
    add(), add(too_large(LOST)), add(snapshot("FAILED", TRAINED))  # whose log nobody has
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert retried(kubeflow) == ["run-0"] and len(kubeflow.runs) == 4
    assert "my 2 (run-2): left alone: the run failed in self-play 1 train\n" in done.stdout


def test_a_look_whose_pod_is_deleted_ends_at_once(kubeflow, command):
    kubeflow.fail("GET runs", 503, times=100)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not kubeflow.requests:
            time.sleep(0.01)
            assert process.poll() is None
        process.terminate()
        assert (process.wait(), process.stderr.read()) == (143, "")
