"""tests/cluster without a cluster: it is collected, says what it lacks, and reads a store, MLflow and nodes."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import boto3
import pytest
from mlflow import MlflowClient
from sppo_pipelines.profile import load_profile

from sppo.errors import ConfigError
from sppo.store.once import run_once
from sppo.store.opening import open_store
from tests.cluster import waiting
from tests.cluster.kube import GPU, Kube
from tests.cluster.mlflow_runs import Tracked
from tests.cluster.runs import OURS, two_nodes
from tests.cluster.settings import NEEDED, LackError, read_settings
from tests.cluster.store import Stored
from tests.cluster.table import rows_of, table
from tests.unit.submission.kubernetes_api import Kubernetes, serve

from .real_commands import ROOT

PAGE = (ROOT / "docs" / "cluster.md").read_text()
NAMED = {
    "SPPO_KFP_HOST": "http://localhost:8080/",
    "SPPO_OUTPUT": "s3://bucket/tests/",
    "SPPO_PROFILE": str(ROOT / "pipelines" / "sppo_pipelines" / "profiles" / "local.yaml"),
}


def run_suite(*arguments: str) -> str:
    """What pytest says of tests/cluster where no cluster is named."""
    environment = {name: value for name, value in os.environ.items() if name not in {*NEEDED, "KUBECONFIG"}}
    command = [sys.executable, "-m", "pytest", "tests/cluster", "-p", "no:cacheprovider", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_every_test_is_collected_and_without_a_cluster_says_what_it_lacks() -> None:
    said = run_suite("-q")
    skipped = re.findall(r"^SKIPPED \[1\] (tests/cluster/\S+): no cluster is named: set (.*) \(", said, re.MULTILINE)
    written = "".join(path.read_text() for path in (ROOT / "tests" / "cluster").glob("test_*.py"))
    assert len(skipped) == len(re.findall(r"^def test_", written, re.MULTILINE)) > 0
    assert {names for _, names in skipped} == {", ".join(NEEDED)}


def test_make_names_the_tests_and_the_page_its_variables() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^test-cluster: venv ## .*\n\t\$\(BIN\)/pytest .*tests/cluster\)$", makefile, re.MULTILINE)
    read = set(re.findall(r'environ\w*(?:\.get\(|\[)"(\w+)"', suite())) | set(NEEDED)
    section = PAGE[PAGE.index("## Test a cluster") :].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) | {"MLFLOW_TRACKING_URI"} == read


def suite() -> str:
    return "".join(path.read_text() for path in sorted((ROOT / "tests" / "cluster").glob("*.py")))


def test_the_cluster_is_the_one_that_the_environment_names() -> None:
    settings = read_settings({**NAMED, "SPPO_NAMESPACE": "team", "SPPO_PATCH_NODE": "1", "SPPO_MLFLOW": "http://m"})
    assert settings[:2] == ("http://localhost:8080", "s3://bucket/tests")
    assert settings[3:] == ("team", True, "http://m")
    assert read_settings({**NAMED, "MLFLOW_TRACKING_URI": "http://t"})[3:] == ("kubeflow", False, "http://t")


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_not_named_is_told(name: str) -> None:
    with pytest.raises(LackError, match=f"no cluster is named: set {name} "):
        read_settings({**NAMED, name: ""})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"SPPO_OUTPUT": "/tmp/runs"}, "is not in S3"), ({"SPPO_PROFILE": "local"}, "SPPO_PROFILE: local is no file")],
)
def test_a_wrong_value_is_no_reason_to_skip(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings({**NAMED, **wrong})


def test_a_profile_for_two_nodes_is_else_as_the_given_one(tmp_path) -> None:
    given = read_settings(NAMED).profile
    before, after = load_profile(str(given)), load_profile(str(two_nodes(given, tmp_path)))
    assert after.training.nodes == 2
    assert after.model_copy(update={"training": before.training}) == before


def test_a_wait_ends_with_what_came_or_with_a_sentence(monkeypatch) -> None:
    monkeypatch.setattr(waiting.time, "sleep", lambda seconds: None)
    found = iter([None, False, 0])
    assert waiting.until("a number", 60, lambda: next(found)) == 0
    with pytest.raises(AssertionError, match=r"the pod: not within 0\.01 s"):
        waiting.until("the pod", 0.01, lambda: None)


def test_the_table_has_a_row_for_each_test() -> None:
    def report(name, when, outcome, seconds, properties=(), longrepr=None):
        told = {"nodeid": f"tests/cluster/a.py::{name}", "when": when, "outcome": outcome, "duration": seconds}
        ended = {"passed": outcome == "passed", "skipped": outcome == "skipped"}
        return SimpleNamespace(**told, **ended, user_properties=list(properties), longrepr=longrepr)

    reports = [
        report("test_a_run_ends", "setup", "passed", 60),
        report("test_a_run_ends", "call", "passed", 5, [("seen", "exit code 0")]),
        report("test_a_run_ends", "teardown", "passed", 1, [("seen", "exit code 0")]),
        report("test_it_broke", "setup", "passed", 0),
        report("test_it_broke", "call", "failed", 2),
        report("test_gpus", "setup", "skipped", 0, longrepr=("a.py", 7, "Skipped: no node has any")),
    ]
    assert table(rows_of(reports))[2:] == [
        "| a run ends | passed | 1:06 | exit code 0 |",
        "| it broke | failed | 0:02 |  |",
        "| gpus | skipped | 0:00 | no node has any |",
    ]


# The store and MLflow


def test_the_store_shows_what_is_committed_and_when(s3) -> None:
    def work(folder):
        (folder / "report.html").write_text("<html>")
        return {}

    run_once(open_store(s3.uri), "report-1a2b3c4d", {}, work)
    stored = Stored(s3.uri)
    assert stored.manifest(s3.uri, "report-1a2b3c4d") and stored.manifest(s3.uri, "published-1a2b3c4d") is None
    assert stored.text(s3.uri, "report-1a2b3c4d", "report.html") == "<html>"
    assert stored.committed(s3.uri, "report-1a2b3c4d") > 1.7e9
    with pytest.raises(AssertionError, match="published-1a2b3c4d: nothing is committed there"):
        stored.text(s3.uri, "published-1a2b3c4d", "config.json")
    stored.remove(s3.uri)
    assert s3.keys() == []


def test_a_bucket_is_made_and_removed_with_what_is_in_it(s3) -> None:
    stored, client = Stored(s3.uri), boto3.client("s3")
    stored.make_bucket("late")
    client.put_object(Bucket="late", Key="run/a", Body=b"")
    stored.remove_bucket("late")
    assert "late" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


def test_a_store_that_refuses_is_a_reason_to_skip(s3) -> None:
    with pytest.raises(LackError, match="the bucket nowhere cannot be read from here"):
        Stored("s3://nowhere/tests")
    s3.fail("PUT", "/late", status=403, code="AccessDenied")
    with pytest.raises(LackError, match=r"these credentials may make no bucket: .*AccessDenied"):
        Stored(s3.uri).make_bucket("late")


def test_mlflow_shows_a_run_by_its_output_uri(tmp_path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment(OURS)
    parent = client.create_run(experiment, tags={"sppo.output_uri": "s3://b/r"})
    nested = client.create_run(experiment, tags={"mlflow.parentRunId": parent.info.run_id})
    tracked = Tracked(uri)
    assert tracked.parent("s3://b/r").info.run_id == parent.info.run_id
    assert [run.info.run_id for run in tracked.nested(parent)] == [nested.info.run_id]
    with pytest.raises(AssertionError, match=r"MLflow has 0 runs with sppo\.output_uri s3://b/other"):
        tracked.parent("s3://b/other")


def test_no_mlflow_is_a_reason_to_skip(monkeypatch) -> None:
    with pytest.raises(LackError, match="set SPPO_MLFLOW"):
        Tracked("")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(LackError, match="MLflow at SPPO_MLFLOW does not answer"):
        Tracked("http://127.0.0.1:9")


# The nodes


VERSION = dict.fromkeys(("major", "minor", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler"), "")


class Nodes(Kubernetes):
    """One node, whose agent makes allocatable what is in its capacity."""

    def __init__(self) -> None:
        super().__init__()
        self.status = {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}}
        self.held["/version/"] = {**VERSION, "platform": "", "gitVersion": "v1.34.4"}
        self.held["/api/v1/namespaces/team/pods"] = {"items": []}
        self.held["/api/v1/nodes"] = {"items": [{"metadata": {"name": "n1"}, "status": self.status}]}
        self.held["/api/v1/nodes/n1/status"] = {}

    def answer(self, path, query, patch=None):
        for each in patch or []:
            assert path == "/api/v1/nodes/n1/status"
            name = each["path"].removeprefix("/status/capacity/").replace("~1", "/")
            for amounts in self.status.values():
                amounts.update({name: each["value"]}) if each["op"] == "add" else amounts.pop(name)
        return super().answer(path, query)


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with serve(tmp_path / "kubeconfig", Nodes()) as held:
        yield held


def test_a_node_has_the_lent_gpus_as_long_as_they_are_lent(nodes) -> None:
    kube = Kube("team")
    assert (kube.version, kube.gpus()) == ("v1.34.4", 0)
    with pytest.raises(RuntimeError, match="a test that fails"), kube.lent_gpus():
        assert kube.gpus() == 2 and nodes.status["capacity"] == {"cpu": "2", GPU: "2"}
        raise RuntimeError("a test that fails")
    assert nodes.status == {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}}


def test_a_cluster_that_refuses_or_is_not_there_is_a_reason_to_skip(nodes, monkeypatch, tmp_path) -> None:
    nodes.refused.add("/api/v1/namespaces/team/pods")
    with pytest.raises(LackError, match="pods of the namespace team cannot be listed: Forbidden"):
        Kube("team")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(LackError, match="no cluster behind KUBECONFIG: "):
        Kube("team")
