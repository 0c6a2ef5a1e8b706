"""Making a TrainJob and following it to its end, against a server that speaks the Kubernetes API."""

import json
import time

import pytest

from sppo.errors import ConfigError, InfrastructureError, RunFailedError
from sppo.training.workers.trainjob import backoff, client, follow
from sppo.training.workers.trainjob.client import Cluster
from sppo.training.workers.trainjob.spec import DIGEST
from tests.unit.trainjob.jobs import NAME, after, complete, once, until, wanted
from tests.unit.trainjob.server import serve
from tests.unit.trainjob.state import JOBS, PODS, terminated


def test_a_job_is_made_and_followed_to_its_end(api, capsys):
    api.on_create = lambda job: once(lambda: api.sent(f"WATCH {JOBS}"), api.end, NAME, "Complete")
    follow.run(Cluster(), wanted())
    (made,) = api.sent(f"POST {JOBS}")
    assert made.json == json.loads(json.dumps(wanted()))
    assert [watch.query["fieldSelector"] for watch in api.sent(f"WATCH {JOBS}")] == [f"metadata.name={NAME}"]
    out = capsys.readouterr().out
    assert f"TrainJob {NAME}: created in namespace team" in out
    assert out.endswith(f"TrainJob {NAME}: complete\n")


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
    assert deletion.json["propagationPolicy"] == "Foreground"
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
    monkeypatch.setattr(backoff, "LONGEST_RETRY_AFTER", 0.4)
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
    once(lambda: api.sent(f"WATCH {JOBS}"), api.fail, "", 503, times=10**6)
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

    def begun_again():
        api.cut += 1
        time.sleep(0.1)
        return len(api.sent(f"WATCH {JOBS}")) > 1

    def cut():
        until(begun_again)  # the first watch may be sent and not look yet
        api.put(JOBS, api.objects[JOBS][NAME])
        api.end(NAME, "Complete")

    once(lambda: api.sent(f"WATCH {JOBS}"), cut)
    follow.run(Cluster(), wanted())
    watched = [int(watch.query["resourceVersion"]) for watch in api.sent(f"WATCH {JOBS}")]
    assert len(watched) > 1 and watched == sorted(watched)


def test_a_watch_from_too_long_ago_is_begun_again(api):
    api.put(JOBS, wanted())
    api.oldest = 10**6  # every watch is answered by 410 Gone
    once(lambda: len(api.sent(f"WATCH {JOBS}")) > 1, api.end, NAME, "Complete")
    follow.run(Cluster(), wanted())
    assert len(api.sent(f"WATCH {JOBS}")) > 1


def test_the_server_ends_a_watch_after_a_while(api):
    api.put(JOBS, wanted())
    once(lambda: len(api.sent(f"WATCH {JOBS}")) > 1, api.end, NAME, "Complete")
    follow.run(Cluster(), wanted())
    assert [watch.query["timeoutSeconds"] for watch in api.sent(f"WATCH {JOBS}")] == ["1", "1"]


def test_a_job_that_somebody_deletes_has_failed(api):
    api.put(JOBS, wanted())
    once(lambda: api.sent(f"WATCH {JOBS}"), api.remove, JOBS, NAME)
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


def test_the_job_says_what_it_is_made_from(api):
    api.on_create = complete(api)
    follow.run(Cluster(), wanted("cc" * 32))
    assert api.objects[JOBS][NAME]["metadata"]["annotations"][DIGEST] == "cc" * 32
