"""Making, following and ending a TrainJob, against a server that speaks the Kubernetes API."""

import datetime
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes.config import incluster_config

from sppo.errors import ConfigError, InfrastructureError, RunFailedError
from sppo.trainjob import client, follow
from sppo.trainjob.client import Cluster
from sppo.trainjob.spec import DIGEST, Pods, job_name, train_job
from tests.unit.trainjob.conftest import JOBS, NAMESPACE, PODS, TOKEN, serve, terminated

URI = "s3://bucket/runs/helpful"
NAME = job_name(URI, 2)


def wanted(digest: str = "aa" * 32, **pods):
    return train_job(URI, 2, 4, digest, Pods(nodes=2, image="train:1", **pods), NAMESPACE, "sppo-runner")


def complete(api):
    """What a cluster does with a job: nothing but let it succeed."""
    return lambda job: api.end(job["metadata"]["name"], "Complete")


def after(seconds, work, *arguments, **named):
    timer = threading.Timer(seconds, work, arguments, named)
    timer.daemon = True
    timer.start()


def until(reached):
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def once(reached, work, *arguments, **named):
    """Do something as soon as something else has happened."""

    def wait():
        until(reached)
        work(*arguments, **named)

    threading.Thread(target=wait, daemon=True).start()


def test_a_job_is_made_and_followed_to_its_end(api, capsys):
    api.on_create = lambda job: after(0.1, api.end, NAME, "Complete")
    follow.run(Cluster(), wanted())
    (made,) = api.sent(f"POST {JOBS}")
    assert made.json == json.loads(json.dumps(wanted()))
    assert [watch.query["fieldSelector"] for watch in api.sent(f"WATCH {JOBS}")] == [f"metadata.name={NAME}"]
    out = capsys.readouterr().out
    assert f"TrainJob {NAME}: created in namespace team" in out
    assert out.endswith(f"TrainJob {NAME}: complete\n")


def test_only_these_rights_are_used(api):
    """The Role in the documentation has these verbs."""

    def play(job):
        api.pod(NAME, 0)
        api.write(api.pod(NAME, 0), "a line", end=True)
        seen = lambda: api.sent(f"WATCH {PODS}") and api.sent(f"WATCH {JOBS}")  # noqa: E731
        once(seen, api.end, NAME, "Complete")

    api.on_create = play
    api.put(JOBS, {**wanted(), "status": {"conditions": [{"type": "Failed", "status": "True"}]}})
    follow.run(Cluster(), wanted())
    verbs = {
        ({"POST": "create", "GET": "get", "WATCH": "watch", "DELETE": "delete"}[r.method], "trainjobs")
        if r.path.startswith(JOBS)
        else ("get", "pods/log")
        if r.path.endswith("/log")
        else ({"GET": "list", "WATCH": "watch"}[r.method], "pods")
        for r in api.requests
    }
    trainjobs = {(verb, "trainjobs") for verb in ("create", "get", "watch", "delete")}
    assert verbs == trainjobs | {("list", "pods"), ("watch", "pods"), ("get", "pods/log")}


def test_a_running_job_of_an_earlier_attempt_is_adopted(api, capsys):
    api.put(JOBS, wanted())
    after(0.1, api.end, NAME, "Complete")
    follow.run(Cluster(), wanted())
    assert "adopted from an earlier attempt" in capsys.readouterr().out
    assert len(api.sent(f"POST {JOBS}")) == 1
    assert not api.sent("DELETE")


def test_a_complete_job_of_an_earlier_attempt_is_left_alone(api):
    api.put(JOBS, wanted())
    api.end(NAME, "Complete")
    follow.run(Cluster(), wanted())
    assert not api.sent("DELETE") and not api.sent("WATCH")


@pytest.mark.parametrize("state", [None, "Complete", "Failed"])
def test_a_job_from_other_inputs_is_refused(api, state):
    api.put(JOBS, wanted("bb" * 32))
    if state:
        api.end(NAME, state)
    with pytest.raises(ConfigError, match=rf"{NAME} in namespace team: made from other inputs \(digest bbbbbbbbbbbb"):
        follow.run(Cluster(), wanted())
    assert NAME in api.objects[JOBS]


def test_a_job_that_is_nobodys_is_refused(api):
    stranger = wanted()
    del stranger["metadata"]["annotations"]
    api.put(JOBS, stranger)
    with pytest.raises(ConfigError, match=f"digest none.*kubectl delete trainjob {NAME} -n team"):
        follow.run(Cluster(), wanted())


@pytest.mark.parametrize("slow", [0.0, 0.3])
def test_a_job_that_failed_before_is_made_anew_once_it_is_gone(api, slow):
    old = api.put(JOBS, wanted())["metadata"]["uid"]
    api.end(NAME, "Failed")
    api.slow_deletion, api.on_create = slow, complete(api)
    follow.run(Cluster(), wanted())
    (deletion,) = api.sent("DELETE")
    assert deletion.json["preconditions"] == {"uid": old}
    assert api.objects[JOBS][NAME]["metadata"]["uid"] != old


def test_a_job_that_is_being_deleted_is_waited_for(api):
    dying = wanted()
    dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    api.put(JOBS, dying)
    after(0.2, api.remove, JOBS, NAME)
    api.on_create = complete(api)
    follow.run(Cluster(), wanted())
    assert not api.sent("DELETE")


def test_a_deletion_that_does_not_end_is_told(api, monkeypatch):
    monkeypatch.setattr(follow, "DELETION", 0.1)
    api.put(JOBS, wanted())
    api.end(NAME, "Failed")
    api.slow_deletion = 30
    with pytest.raises(InfrastructureError, match=r"still being deleted after 0\.1 s; look at its finalizers"):
        follow.run(Cluster(), wanted())


def test_a_job_whose_creation_was_not_answered_is_not_made_twice(api):
    api.on_create = complete(api)
    api.fail(f"POST {JOBS}", "reset", late=True)
    follow.run(Cluster(), wanted())
    assert len(api.sent(f"POST {JOBS}")) == 2
    assert len([event for event in api.events if event[2] == "ADDED"]) == 1


@pytest.mark.parametrize("code", [429, 500, 503, "reset"])
@pytest.mark.parametrize("where", [f"POST {JOBS}", f"GET {JOBS}", f"WATCH {JOBS}", f"GET {PODS}", f"WATCH {PODS}"])
def test_a_request_that_fails_is_repeated(api, where, code):
    api.on_create = lambda job: once(lambda: len(api.sent(where)) > 3, api.end, NAME, "Complete")
    api.fail(where, code, times=3)
    follow.run(Cluster(), wanted())
    assert len(api.sent(where)) > 3


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_retry_after_is_followed_within_limits(api, monkeypatch, method):
    monkeypatch.setattr(client, "LONGEST_RETRY_AFTER", 0.4)
    api.on_create = complete(api)
    if method == "GET":
        api.put(JOBS, wanted())
        once(lambda: len(api.sent(f"GET {JOBS}")) > 1, api.end, NAME, "Complete")
    api.fail(f"{method} {JOBS}", 429, headers={"Retry-After": "77"})
    follow.run(Cluster(), wanted())
    first, second = (request.at for request in api.sent(f"{method} {JOBS}")[:2])
    assert 0.4 <= second - first < 3


def test_a_server_that_stays_away_is_told_and_the_job_goes_on(api, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 0.3)
    api.put(JOBS, wanted())
    after(0.1, api.fail, "", 503, times=10**6)
    api.cut += 1
    with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1:\d+: get trainjobs: 503 injected 503"):
        follow.run(Cluster(), wanted())
    assert NAME in api.objects[JOBS]


def test_a_restart_of_the_server_is_survived(api, capsys):
    def restart():
        api.server.shutdown()
        api.server.server_close()
        api.cut += 1
        time.sleep(0.5)
        api.server = serve(api, api.port)
        api.write(pod, "after", end=True)
        api.pod(NAME, 0, state=terminated(0, "Completed"))
        after(0.2, api.end, NAME, "Complete")

    api.put(JOBS, wanted())
    pod = api.pod(NAME, 0)
    api.write(pod, "before")
    after(0.3, restart)
    follow.run(Cluster(), wanted())
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("before") == lines.count("after") == 1


def test_a_watch_that_is_cut_off_is_begun_again_from_the_state_at_that_time(api):
    api.put(JOBS, wanted())

    def cut():
        api.cut += 1
        time.sleep(0.2)
        api.put(JOBS, api.objects[JOBS][NAME])
        api.cut += 1
        api.end(NAME, "Complete")

    after(0.2, cut)
    follow.run(Cluster(), wanted())
    watched = [int(watch.query["resourceVersion"]) for watch in api.sent(f"WATCH {JOBS}")]
    assert len(watched) > 1 and watched == sorted(watched)


def test_a_watch_from_too_long_ago_is_begun_again(api):
    api.put(JOBS, wanted())
    api.oldest = 10**6  # every watch is answered by 410 Gone
    after(0.3, api.end, NAME, "Complete")
    follow.run(Cluster(), wanted())
    assert len(api.sent(f"WATCH {JOBS}")) > 1


def test_the_server_ends_a_watch_after_a_while(api):
    api.put(JOBS, wanted())
    after(1.5, api.end, NAME, "Complete")
    follow.run(Cluster(), wanted())
    assert [watch.query["timeoutSeconds"] for watch in api.sent(f"WATCH {JOBS}")] == ["1", "1"]


def test_a_job_that_somebody_deletes_has_failed(api):
    api.put(JOBS, wanted())
    after(0.2, api.remove, JOBS, NAME)
    with pytest.raises(RunFailedError, match=f"TrainJob {NAME}: somebody deleted it while it ran"):
        follow.run(Cluster(), wanted())


def test_what_a_job_waits_for_is_told(api, capsys):
    def play(job):
        queued = {"type": "Suspended", "status": "True", "reason": "Suspended", "message": "TrainJob is suspended"}
        api.put(JOBS, {**job, "status": {"conditions": [queued]}})
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling train:1"}}
        api.pod(NAME, 0, state=waiting)
        why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes have a GPU"}
        api.pod(NAME, 1, state={"waiting": {"reason": "ContainerCreating"}}, conditions=[why])
        once(lambda: len(api.sent(f"WATCH {PODS}")) > 1, api.end, NAME, "Complete")

    api.on_create = play
    follow.run(Cluster(), wanted())
    out = capsys.readouterr().out
    assert f"TrainJob {NAME}: Suspended: Suspended: TrainJob is suspended\n" in out
    assert f"{NAME}-node-0-0-abcde: ImagePullBackOff: Back-off pulling train:1\n" in out
    assert f"{NAME}-node-0-1-abcde: Unschedulable: 0/3 nodes have a GPU\n" in out


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
    assert any("sinceSeconds" in request.query for request in api.sent("GET") if request.path.endswith("/log"))
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


def test_the_end_of_the_log_is_printed_before_the_end_of_the_job(api, capsys):
    api.put(JOBS, wanted())
    pod = api.pod(NAME, 0)

    def play():
        api.write(pod, *(f"line {i}" for i in range(900)), end=True)
        api.pod(NAME, 0, state=terminated(0, "Completed"))
        api.end(NAME, "Complete")

    after(0.1, play)
    follow.run(Cluster(), wanted())
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("line")] == [f"line {i}" for i in range(900)]
    assert lines[-1] == f"TrainJob {NAME}: complete"


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


def test_a_failure_without_pods_is_told_by_the_job(api):
    api.put(JOBS, wanted())
    after(0.2, api.end, NAME, "Failed", "the runtime torch-distributed is not there")
    with pytest.raises(RunFailedError, match=f"{NAME} failed: JobsFailed: the runtime torch-distributed is not there$"):
        follow.run(Cluster(), wanted())


@pytest.mark.parametrize("verb", ["create", "get", "watch"])
def test_a_right_that_is_missing_is_named(api, verb):
    if verb != "create":
        api.put(JOBS, wanted())
    api.fail({"create": "POST", "get": "GET", "watch": "WATCH"}[verb] + f" {JOBS}", 403, times=10**6)
    expected = (
        rf"{verb} trainjobs in namespace team: ServiceAccount sppo-runner may not \(403 injected 403\); give it a Role "
        rf"with verb {verb} on trainjobs: add manifests/components/multi-node to your overlay"
    )
    with pytest.raises(InfrastructureError, match=expected) as raised:
        follow.run(Cluster(), wanted())
    assert TOKEN not in str(raised.value)


def test_rights_to_the_pods_that_are_missing_cost_the_log_and_not_the_training(api, capsys):
    # A while after the request, so that its answer is there before the end.
    api.on_create = lambda job: once(lambda: api.sent(f"GET {PODS}"), after, 1.0, api.end, NAME, "Complete")
    api.fail(f"GET {PODS}", 403, times=10**6)
    follow.run(Cluster(), wanted())
    out = capsys.readouterr().out
    assert "list pods in namespace team: ServiceAccount sppo-runner may not" in out
    assert "the training goes on" in out and out.endswith("complete\n")


def test_a_token_that_is_not_accepted_is_told(api):
    api.fail(f"POST {JOBS}", 401)
    with pytest.raises(InfrastructureError, match=r"the token is not accepted \(401 injected 401\)"):
        follow.run(Cluster(), wanted())


def test_a_cluster_without_kubeflow_trainer_is_told(api):
    api.installed = False
    with pytest.raises(ConfigError, match=r"create trainjobs.*install Kubeflow Trainer"):
        follow.run(Cluster(), wanted())


def test_an_object_that_is_refused_is_told(api):
    api.fail(f"POST {JOBS}", 422)
    with pytest.raises(ConfigError, match="create trainjobs in namespace team: refused: 422 injected 422"):
        follow.run(Cluster(), wanted())
    assert len(api.sent("POST")) == 1


def test_without_a_cluster_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"training_nodes: more than one needs a cluster.*set training_nodes=1"):
        Cluster()


STEP = textwrap.dedent("""
    import sys
    from sppo.trainjob.client import Cluster
    from sppo.trainjob.follow import run
    from sppo.trainjob.spec import Pods, train_job
    run(Cluster(), train_job("s3://bucket/runs/helpful", 2, 4, "aa" * 32, Pods(2, "train:1"), "team", "sppo-runner"))
""")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("when", ["making", "following"])
def test_a_step_that_is_cancelled_deletes_its_job(api, number, code, when):
    if when == "making":
        api.fail(f"POST {JOBS}", 503, times=10**6, late=True)  # made, but the answers say that it is not
    with subprocess.Popen([sys.executable, "-c", STEP], stdout=subprocess.PIPE, text=True, env={**os.environ}) as step:
        until(lambda: NAME in api.objects[JOBS] and (when == "making" or api.sent(f"WATCH {JOBS}")))
        start = time.monotonic()
        step.send_signal(number)
        out, _ = step.communicate(timeout=20)
    assert step.returncode == code, out
    assert time.monotonic() - start < 10
    (deletion,) = api.sent("DELETE")
    assert deletion.json["propagationPolicy"] == "Foreground"
    assert NAME not in api.objects[JOBS]
    assert out.endswith(f"TrainJob {NAME}: the step is cancelled, so it is deleted\n")


def test_a_step_that_is_cancelled_leaves_other_jobs_alone(api):
    api.put(JOBS, wanted())
    cluster = Cluster()
    with pytest.raises(SystemExit) as ended, follow._deleted_if_cancelled(cluster, wanted("bb" * 32)):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ended.value.code == 143
    assert not api.sent("DELETE")


def test_handlers_of_signals_are_given_back(api):
    api.on_create = complete(api)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    follow.run(Cluster(), wanted())
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_job_says_what_it_is_made_from(api):
    api.on_create = complete(api)
    follow.run(Cluster(), wanted("cc" * 32))
    assert api.objects[JOBS][NAME]["metadata"]["annotations"][DIGEST] == "cc" * 32


def test_in_a_pod_the_cluster_is_the_one_around_it(api, monkeypatch, tmp_path):
    """Over TLS, with the files that Kubernetes mounts."""
    authority = trust(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    api.server.socket = context.wrap_socket(api.server.socket, server_side=True)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "namespace").write_text(NAMESPACE + "\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setattr(client, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    monkeypatch.delenv("KUBECONFIG")
    api.on_create = complete(api)
    cluster = Cluster()
    assert (cluster.namespace, cluster.service_account) == (NAMESPACE, "sppo-runner")
    follow.run(cluster, wanted())


def trust(folder):
    """A file with a certificate of 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "authority.pem"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + secret)
    return path
