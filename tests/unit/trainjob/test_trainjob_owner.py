"""Whose a TrainJob is: it goes with the pod of the step, unless the pod of a later attempt has taken it over."""

import pytest

from sppo.errors import ConfigError, RunFailedError
from sppo.training.workers.trainjob import follow
from sppo.training.workers.trainjob.client import Cluster
from tests.unit.trainjob.jobs import NAME, after, attempt, complete, once, until, wanted
from tests.unit.trainjob.state import JOBS, PODS


def launch_pod(api, number):
    """The pod of an attempt at the step."""
    owner = attempt(number)
    api.put(PODS, {"metadata": {"name": owner["name"], "uid": owner["uid"]}, "status": {"phase": "Failed"}})
    return owner["name"]


def owners(api):
    return [owner["name"] for owner in api.objects[JOBS][NAME]["metadata"]["ownerReferences"]]


def test_a_retry_takes_a_job_over_before_its_owner_takes_it_along(api, capsys):
    first, second = launch_pod(api, 1), launch_pod(api, 2)
    old = api.put(JOBS, wanted(number=1))
    version, uid = old["metadata"]["resourceVersion"], old["metadata"]["uid"]

    def lose_the_first():
        api.collect(first)
        after(0.2, api.end, NAME, "Complete")

    once(lambda: api.sent(f"WATCH {JOBS}"), lose_the_first)
    follow.run(Cluster(), wanted(number=2))
    (change,) = api.sent("PATCH")
    assert change.path == f"{JOBS}/{NAME}"
    assert change.json == {"metadata": {"resourceVersion": version, "ownerReferences": [attempt(2)]}}
    assert api.objects[JOBS][NAME]["metadata"]["uid"] == uid
    assert capsys.readouterr().out.endswith("complete\n")
    api.collect(second)
    assert NAME not in api.objects[JOBS]


def test_an_owner_is_not_given_again(api):
    """Where the answer to a creation was lost, the job that is found is this attempt's own."""
    api.on_create = complete(api)
    api.fail(f"POST {JOBS}", "reset", late=True)
    follow.run(Cluster(), wanted(number=1))
    assert not api.sent("PATCH") and owners(api) == ["launch-1"]


def test_a_job_that_changes_meanwhile_is_looked_at_again(api):
    api.put(JOBS, wanted(number=1))
    held = api.hold("PATCH")

    def change():
        api.put(JOBS, {**api.objects[JOBS][NAME], "status": {"conditions": []}})
        held.set()
        until(lambda: owners(api) == ["launch-2"])
        api.end(NAME, "Complete")

    once(lambda: api.sent("PATCH"), change)
    follow.run(Cluster(), wanted(number=2))
    assert len(api.sent("PATCH")) == 2 and owners(api) == ["launch-2"]


def test_a_take_over_whose_answer_is_lost_is_not_done_twice(api):
    api.put(JOBS, wanted(number=1))
    api.fail("PATCH", "reset", late=True)
    once(lambda: api.sent(f"WATCH {JOBS}"), api.end, NAME, "Complete")
    follow.run(Cluster(), wanted(number=2))
    assert len([event for event in api.events if event[1:3] == (JOBS, "MODIFIED")]) == 2, "the owner, and the end"


def test_a_job_that_was_replaced_meanwhile_is_not_taken_over(api):
    api.put(JOBS, wanted(number=1))
    held = api.hold("PATCH")

    def replace():
        api.remove(JOBS, NAME)
        api.put(JOBS, wanted("bb" * 32, number=7))
        held.set()

    once(lambda: api.sent("PATCH"), replace)
    with pytest.raises(ConfigError, match="made from other inputs"):
        follow.run(Cluster(), wanted(number=2))
    assert owners(api) == ["launch-7"]


@pytest.mark.parametrize("takes", [0.0, 0.3])
def test_a_job_that_went_with_its_owner_before_it_was_taken_over_is_made_anew(api, capsys, takes):
    """Its pods are gone by then: those of two trainings of one name would meet."""
    first = launch_pod(api, 1)
    launch_pod(api, 2)
    old = api.put(JOBS, wanted(number=1))["metadata"]["uid"]
    api.pod(NAME, 0)
    api.slow_deletion = takes
    held, left = api.hold("PATCH"), []

    def collect():
        api.collect(first)
        held.set()

    def play(job):
        left.extend(name for name in api.objects[PODS] if name.startswith(NAME))
        api.end(NAME, "Complete")

    api.on_create = play
    once(lambda: api.sent("PATCH"), collect)
    follow.run(Cluster(), wanted(number=2))
    assert api.objects[JOBS][NAME]["metadata"]["uid"] != old
    assert owners(api) == ["launch-2"] and not left
    assert not api.sent("DELETE")
    assert f"TrainJob {NAME}: created in namespace team" in capsys.readouterr().out


def test_a_job_of_an_older_version_that_goes_with_its_owner_is_made_anew(api):
    """It has no finalizer, so the garbage collector takes it at once."""
    first = launch_pod(api, 1)
    old = wanted(number=1)
    del old["metadata"]["finalizers"]
    api.put(JOBS, old)
    held = api.hold("PATCH")

    def collect():
        api.collect(first)
        held.set()

    api.on_create = complete(api)
    once(lambda: api.sent("PATCH"), collect)
    follow.run(Cluster(), wanted(number=2))
    assert owners(api) == ["launch-2"]


def test_a_job_that_is_deleted_after_it_was_taken_over_has_failed(api):
    api.put(JOBS, wanted(number=1))
    once(lambda: api.sent(f"WATCH {JOBS}"), after, 0.1, api.remove, JOBS, NAME)
    with pytest.raises(RunFailedError, match="somebody deleted it while it ran"):
        follow.run(Cluster(), wanted(number=2))
    assert len(api.sent("PATCH")) == 1 and len(api.sent(f"POST {JOBS}")) == 1
