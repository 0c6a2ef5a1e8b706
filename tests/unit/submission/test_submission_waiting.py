"""Why a pod does not start: told after two minutes, with what Argo, the cluster or Kueue says, or how to see it."""

import io
from datetime import timedelta

import pytest
from rich.console import Console
from sppo_pipelines.submission import run, waiting
from sppo_pipelines.submission.client import Client
from sppo_pipelines.submission.follow import follow
from sppo_pipelines.submission.kubeconfig import KubeconfigCluster

from .argo import NAMESPACE, RUN, driver, gate, pod_name, task
from .conftest import snapshot
from .kubernetes_api import Cut

PREPARED = task("prepare", start=3, end=10)
TRAINED = task("train", start=11, end=20, iteration=1)
POD = pod_name(TRAINED)
DESCRIBE = f"`kubectl describe pod {POD} --namespace {NAMESPACE}`"
NO_GPU = "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
NO_IMAGE = "ImagePullBackOff: Back-off pulling image ghcr.io/none"
UID = "5ff915da-2bc6-43a1-a13b-1a78cc822c89"
GATED = {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}], "containers": []}
QUOTA = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor h100, 1 more"
PASSED = snapshot("SUCCEEDED", PREPARED, TRAINED, *gate(True, 21, 22))


def pending(message: str = "") -> dict:
    """A run whose training waits for its pod."""
    return snapshot("RUNNING", PREPARED, TRAINED._replace(phase="Pending", end=0, messages=(message,)))


@pytest.fixture
def told(submit, kubeflow):
    """Follows a run through these moments, and gives the lines that say what waits, without the time."""

    def follow_through(*script: dict) -> list[str]:
        kubeflow.script = [snapshot("PENDING"), *script, PASSED]
        result = submit("--wait")
        assert result.code == 0, result.err
        return [line[9:] for line in result.out.splitlines() if " waits: " in line]

    return follow_through


PODS, EVENTS = f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}", f"/api/v1/namespaces/{NAMESPACE}/events"
WORKLOADS = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{NAMESPACE}/workloads"


@pytest.fixture
def cluster(kubernetes):
    """A cluster that a kubeconfig names, with the pod that waits."""
    spec, status = {"containers": []}, {"phase": "Pending"}
    kubernetes.held[PODS] = {"metadata": {"name": POD, "uid": UID}, "spec": spec, "status": status}
    kubernetes.held[EVENTS] = {"items": []}
    return kubernetes


def test_what_argo_says_is_told_once_and_again_when_it_changes(told):
    lines = told(pending(NO_GPU), pending(NO_GPU), pending(NO_IMAGE), pending(NO_IMAGE))
    assert lines == [f"self-play 1 train waits: {why}; {DESCRIBE} shows more" for why in (NO_GPU, NO_IMAGE)]


def test_what_waits_again_is_told_again(told):
    started = snapshot("RUNNING", PREPARED, TRAINED._replace(phase="Running", end=0))
    assert len(told(pending(NO_GPU), started, pending(NO_GPU))) == 2


def test_two_minutes_are_not_told(told, monkeypatch):
    assert timedelta(minutes=2) == waiting.PATIENCE
    monkeypatch.setattr(waiting, "PATIENCE", timedelta(days=365_000))
    assert told(pending(NO_GPU)) == []


def test_where_argo_says_nothing_the_commands_are(told):
    (line,) = told(pending())
    kueue = f"`kubectl describe workloads.kueue.x-k8s.io --namespace {NAMESPACE}`"
    assert line == f"self-play 1 train waits: Argo gives no reason; {DESCRIBE} does, or with Kueue {kueue}"


def test_of_many_shards_one_is_told(told):
    shards = [
        task("generate", "Pending", start=11 + shard, iteration=1, shard=shard, messages=[NO_GPU]) for shard in range(9)
    ]
    (line,) = told(snapshot("RUNNING", PREPARED, *shards))
    assert line.startswith("self-play 1 generate waits: ") and pod_name(shards[0]) in line


def test_a_driver_that_waits_is_told(told):
    held = driver(*RUN, "iterations", "self-play-1", message=NO_IMAGE)._replace(phase="Pending", end=0)
    (line,) = told(snapshot("RUNNING", PREPARED, held))
    assert line.startswith(f"the driver of self-play-1 waits: {NO_IMAGE}; ")


def test_a_terminal_shows_it(kubeflow, monkeypatch):
    monkeypatch.setattr(run, "INTERVAL", 0.6)  # longer than the screen takes to be drawn
    kubeflow.runs = [{"run_id": "run-0", "display_name": "my run", "state": "RUNNING"}]
    kubeflow.script = [pending(NO_GPU), pending(NO_GPU), PASSED]
    screen = io.StringIO()
    follow(Client(kubeflow.address), "run-0", Console(file=screen, force_terminal=True, width=300))
    assert f"self-play 1 train waits: {NO_GPU}" in screen.getvalue()


def event(reason: str, minute: int, **when: str | None) -> dict:
    return {
        "metadata": {"name": reason, "creationTimestamp": f"2026-01-01T00:{minute:02}:00Z"},
        "involvedObject": {},
        "reason": reason,
        "message": f"{reason} it is",
        "lastTimestamp": f"2026-01-01T00:{minute:02}:00Z",
        **when,
    }


def test_the_pods_newest_event_is_told_where_a_kubeconfig_may_read_it(told, cluster):
    scaled = event("TriggeredScaleUp", 3, lastTimestamp=None, eventTime="2026-01-01T00:03:00.000000Z")
    cluster.held[EVENTS] = {"items": [event("FailedScheduling", 2), scaled, event("Scheduled", 1)]}
    assert told(pending(NO_GPU)) == ["self-play 1 train waits: TriggeredScaleUp: TriggeredScaleUp it is"]
    assert (EVENTS, {"fieldSelector": f"involvedObject.uid={UID}"}) in cluster.requests


def test_a_pod_that_has_started_meanwhile_does_not_wait(told, cluster):
    """The server may tell that late: seen on a busy cluster, where the newest event was that its container started."""
    cluster.held[PODS]["status"]["phase"] = "Running"
    cluster.held[EVENTS] = {"items": [event("Started", 2)]}
    assert told(pending(), pending()) == []


@pytest.mark.parametrize("path", [PODS, EVENTS])
@pytest.mark.parametrize("status", [403, 404])
def test_a_cluster_that_does_not_tell_is_no_failure(told, cluster, path, status):
    """It may be another cluster than the run's, or this user may not read there."""
    if status == 404:
        del cluster.held[path]
    else:
        cluster.refused.add(path)
    assert told(pending(NO_GPU)) == [f"self-play 1 train waits: {NO_GPU}; {DESCRIBE} shows more"]


def test_a_cluster_that_is_away_is_no_failure(told, cluster, monkeypatch, tmp_path):
    text = (tmp_path / "kubeconfig").read_text()
    (tmp_path / "kubeconfig").write_text(text.replace("http://127.0.0.1:", "http://127.0.0.1:1"))
    assert len(told(pending(NO_GPU))) == 1 and not cluster.requests


def test_a_kubeconfig_that_is_none_is_no_failure(told, monkeypatch, tmp_path):
    (tmp_path / "kubeconfig").write_text("{")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert len(told(pending(NO_GPU))) == 1


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
def test_what_kueue_says_of_a_pod_that_it_holds_is_told(told, cluster, version):
    cluster.held[PODS]["spec"] = GATED
    conditions = [{"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": QUOTA}]
    cluster.held[WORKLOADS.replace("v1beta2", version)] = {"items": [{"status": {"conditions": conditions}}]}
    assert told(pending()) == [f"self-play 1 train waits: Kueue holds it: {QUOTA}"]
    assert cluster.requests[-1][1] == {"labelSelector": f"kueue.x-k8s.io/job-uid={UID}"}


@pytest.mark.parametrize("status", [200, 403])
def test_where_the_workload_may_not_be_read_its_command_is_told(told, cluster, status):
    cluster.held[PODS]["spec"] = GATED
    if status == 200:
        cluster.held[WORKLOADS] = {"items": []}  # Kueue has not made it yet
    else:
        cluster.refused |= {WORKLOADS, WORKLOADS.replace("v1beta2", "v1beta1")}
    (line,) = told(pending())
    command = (
        f"kubectl describe workloads.kueue.x-k8s.io --namespace {NAMESPACE} --selector kueue.x-k8s.io/job-uid={UID}"
    )
    assert line == f"self-play 1 train waits: Kueue holds it; `{command}` says why"


@pytest.mark.parametrize(("interval", "asked"), [(60.0, 1), (0.0, 4)])
def test_the_cluster_is_asked_now_and_then(told, cluster, monkeypatch, interval, asked):
    monkeypatch.setattr(waiting, "INTERVAL", interval)
    told(*[pending(NO_GPU)] * 4)
    assert len([path for path, _ in cluster.requests if path == PODS]) == asked


def test_a_log_whose_connection_breaks_cannot_be_read(kubernetes):
    kubernetes.held["/api/v1/namespaces/team/pods/p/log"] = "all of it"
    assert KubeconfigCluster().log("team", "p") == "all of it"
    kubernetes.held["/api/v1/namespaces/team/pods/p/log"] = Cut("half of")
    assert KubeconfigCluster().log("team", "p") is None
