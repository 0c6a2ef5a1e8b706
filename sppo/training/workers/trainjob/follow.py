"""A TrainJob from its making to its end: made or adopted, followed, and deleted where the step is cancelled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sppo.errors import ConfigError, InfrastructureError, RunFailedError
from sppo.training.workers.trainjob.client import Cluster, Conflict, Expired, Missing
from sppo.training.workers.trainjob.pods import PodFollower
from sppo.training.workers.trainjob.spec import DIGEST, Json

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a watch that ended is begun again: doubling as long as it tells nothing."""
INTERVAL = 3.0
"""Seconds between looks at a job that is being deleted."""
DELETION = 600.0
"""Seconds that a deletion may take."""
CANCELLATION = 20.0
"""Seconds that a cancelled step may take to delete its job: Kubernetes kills a pod 30 s after SIGTERM."""
UNWINDING = 5.0
"""Seconds that a cancelled step may take to end once its job is deleted."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Cancelled(BaseException):
    """The step got a signal: its number, and what became of the job."""


@dataclass
class _Ours:
    """The job that is deleted where the step is cancelled; None as long as it is not known to be there."""

    job: Json | None = None


def run(cluster: Cluster, wanted: Json) -> None:
    """Have a TrainJob run to its end.

    A job of the same name and input digest is adopted, unless it failed; then it is replaced. Where this process is
    told to end by SIGTERM or SIGINT, the job is deleted, and the process exits with 143 or 130.

    An adopted job gets the wanted one's owner. If it was deleted with its old one before that, it is made anew; if it
    is deleted later, then by somebody.

    Raises:
        ConfigError: if there is a job of that name from other inputs, or a pod says that its input is wrong.
        RunFailedError: if the job failed, or somebody deleted it.
        InfrastructureError: if the API server does not answer or refuses; the job goes on.
    """
    with _deleted_if_cancelled(Cluster(), wanted) as ours:
        while ours.job is None:
            ours.job = make(cluster, wanted)
            ours.job = take_over(cluster, ours.job, wanted)
        follow(cluster, ours.job)


def make(cluster: Cluster, wanted: Json) -> Json:
    """The TrainJob: a new one, or the one that an earlier attempt at this step made.

    Raises:
        ConfigError: if the one of that name is from other inputs.
    """
    name = wanted["metadata"]["name"]
    while True:
        try:
            made = cluster.create(wanted)
            print(f"TrainJob {name}: created in namespace {cluster.namespace}", flush=True)
            return made
        except Conflict:
            pass
        try:
            found = cluster.get(name)
        except Missing:
            continue
        _check_digest(cluster, found, wanted)
        end = ending(found)
        if not found["metadata"].get("deletionTimestamp"):
            if end is None or end["type"] == "Complete":
                print(f"TrainJob {name}: adopted from an earlier attempt", flush=True)
                return found
            print(f"TrainJob {name}: failed in an earlier attempt ({_words(end)}); it is replaced", flush=True)
            cluster.delete(found)
        _wait_until_gone(cluster, found)


def take_over(cluster: Cluster, job: Json, wanted: Json) -> Json | None:
    """Give a job of an earlier attempt the owner of the wanted one.

    Returns:
        Its new state; None if it was changed, replaced or deleted since it was read.
    """
    owners = wanted["metadata"].get("ownerReferences")
    if not owners or job["metadata"].get("ownerReferences") == owners:
        return job
    try:
        return cluster.give(job, owners)
    except (Missing, Conflict):
        return None


def ending(job: Json) -> Json | None:
    """The condition that a job ended with; None as long as it goes on."""
    conditions = (job.get("status") or {}).get("conditions") or []
    ended = [c for c in conditions if c["type"] in {"Complete", "Failed"} and c["status"] == "True"]
    return ended[0] if ended else None


def follow(cluster: Cluster, job: Json) -> None:
    """Print what a job does until it is complete.

    Raises:
        RunFailedError, ConfigError, InfrastructureError: as `run`.
    """
    name, end = job["metadata"]["name"], ending(job)
    with PodFollower(cluster, name, watching=end is None) as pods:
        end = end or _wait(cluster, job)
    if end["type"] == "Failed":
        raise pods.error(_words(end))
    print(f"TrainJob {name}: complete", flush=True)


def _wait(cluster: Cluster, job: Json) -> Json:
    shown = ""
    for state in _states(cluster, job):
        end = ending(state)
        if end is not None:
            return end
        conditions = (state.get("status") or {}).get("conditions") or []
        told = "; ".join(f"{c['type']}: {_words(c)}" for c in conditions if c["status"] == "True")
        if told != shown:
            print(f"TrainJob {job['metadata']['name']}: {told or 'goes on'}", flush=True)
            shown = told
    raise AssertionError("states do not end")


def _states(cluster: Cluster, job: Json) -> Iterator[Json]:
    """A job's states, without end; a watch that is cut off or too old is begun again from the state at that time."""
    name, uid, pause = job["metadata"]["name"], job["metadata"]["uid"], FIRST_PAUSE
    deleted = RunFailedError(f"TrainJob {name}: somebody deleted it while it ran")
    while True:
        try:
            job = cluster.get(name)
        except Missing:
            raise deleted from None
        if job["metadata"]["uid"] != uid:
            raise deleted
        yield job
        try:
            for kind, state in cluster.watch_job(job):
                pause = FIRST_PAUSE
                if kind == "DELETED":
                    raise deleted
                yield state
        except Expired:
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)


def _check_digest(cluster: Cluster, found: Json, wanted: Json) -> None:
    theirs = (found["metadata"].get("annotations") or {}).get(DIGEST, "none")
    ours = wanted["metadata"]["annotations"][DIGEST]
    if theirs != ours:
        name = found["metadata"]["name"]
        raise ConfigError(
            f"TrainJob {name} in namespace {cluster.namespace}: made from other inputs (digest {theirs[:12]}, here "
            f"{ours[:12]}); choose another output_uri, or kubectl delete trainjob {name} -n {cluster.namespace}"
        )


def _wait_until_gone(cluster: Cluster, job: Json) -> None:
    name, end = job["metadata"]["name"], time.monotonic() + DELETION
    while time.monotonic() < end:
        try:
            if cluster.get(name)["metadata"]["uid"] != job["metadata"]["uid"]:
                return
        except Missing:
            return
        time.sleep(INTERVAL)
    raise InfrastructureError(f"TrainJob {name}: still being deleted after {DELETION:g} s; look at its finalizers")


@contextmanager
def _deleted_if_cancelled(cluster: Cluster, wanted: Json) -> Iterator[_Ours]:
    """Have a signal delete the job, before anything else.

    Argo's executor hands a signal to the whole process group (Kill in workflow/executor/osspecific): the launcher of
    Kubeflow Pipelines, which reads what is printed here, is gone at once, and the container within a second (seen: 0.3
    to 0.9 s). So the handler itself sends the deletion: before what it interrupted is unwound, and before any print.

    Args:
        cluster: for the deletion alone, as the signal may have interrupted any other in the middle of a request.
        wanted: the job.
    """
    ours = _Ours()

    def stop(number: int, _: object) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        told = _delete_ours(cluster, ours.job, wanted)
        # An exception that is raised inside a finalizer is lost, and the step would go on and make the job anew.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
        signal.setitimer(signal.ITIMER_REAL, UNWINDING)
        raise _Cancelled(number, told)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            signal.signal(number, stop)
        yield ours
    except _Cancelled as cancelled:
        signal.setitimer(signal.ITIMER_REAL, 0)
        number, told = cancelled.args
        with suppress(BrokenPipeError):  # the launcher that read this is gone
            print(told, flush=True)
        raise SystemExit(128 + number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _delete_ours(cluster: Cluster, job: Json | None, wanted: Json) -> str:
    """Delete the job, also one whose creation was not answered yet; never one from other inputs.

    Returns:
        What became of it, for people.
    """
    name = wanted["metadata"]["name"]
    try:
        if job is None:
            job = cluster.get(name, patience=CANCELLATION / 2)
            _check_digest(cluster, job, wanted)
        cluster.delete(job, patience=CANCELLATION / 2)
    except Missing:
        return f"TrainJob {name}: the step is cancelled before there is one"
    except (ConfigError, InfrastructureError) as error:
        return f"warning: TrainJob {name} is not deleted: {error}"
    return f"TrainJob {name}: the step is cancelled, so it is deleted"


def _words(condition: Json) -> str:
    return ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
