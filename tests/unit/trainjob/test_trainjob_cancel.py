"""A step that is told to end takes its TrainJob with it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sppo.training.workers.trainjob import follow
from sppo.training.workers.trainjob.client import Cluster
from tests.unit.trainjob.jobs import NAME, complete, until, wanted
from tests.unit.trainjob.state import JOBS

ROOT = Path(__file__).parents[3]
STEP = textwrap.dedent("""
    from sppo.training.workers.trainjob.client import Cluster
    from sppo.training.workers.trainjob.follow import run
    from tests.unit.trainjob.jobs import wanted
    run(Cluster(), wanted(number=2))
""")
LAUNCHER = textwrap.dedent("""
    import subprocess, sys
    step = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in step.stdout:
        print(line.decode(), end="", flush=True)
""")
"""What runs a stage in its pod, as `execute` in backend/src/v2/component/launcher_v2.go of Kubeflow Pipelines 2.17: it
copies what the stage prints, and does nothing about signals."""


def start(*program, **more):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", *program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **more)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("when", ["making", "following"])
def test_a_step_that_is_cancelled_deletes_its_job(api, number, code, when):
    if when == "making":
        api.fail(f"POST {JOBS}", 503, times=10**6, late=True)  # made, but the answers say that it is not
    with start(STEP) as step:
        until(lambda: NAME in api.objects[JOBS] and (when == "making" or api.sent(f"WATCH {JOBS}")))
        begin = time.monotonic()
        step.send_signal(number)
        out, _ = step.communicate(timeout=20)
    assert step.returncode == code, out
    assert time.monotonic() - begin < 10
    (deletion,) = api.sent("DELETE")
    assert deletion.json["propagationPolicy"] == "Foreground"
    assert NAME not in api.objects[JOBS]
    assert out.endswith(f"TrainJob {NAME}: the step is cancelled, so it is deleted\n")


LOST = textwrap.dedent("""
    import time
    from sppo.training.workers.trainjob import follow
    from sppo.training.workers.trainjob.client import Cluster
    from tests.unit.trainjob.jobs import wanted

    class Closing:
        def __del__(self):
            print("closing", flush=True)
            time.sleep(60)

    follow.UNWINDING = 0.5
    with follow._deleted_if_cancelled(Cluster(), wanted()) as ours:
        ours.job = Cluster().create(wanted())
        Closing()
        time.sleep(60)
""")


def test_a_signal_in_a_finalizer_ends_the_step_all_the_same(api):
    """Python loses what is raised there."""
    with start(LOST, stderr=subprocess.DEVNULL) as step:
        assert step.stdout.readline() == "closing\n"
        step.send_signal(signal.SIGTERM)
        assert step.wait(10) == 143
    assert NAME not in api.objects[JOBS]


def asked(api, since):
    """What was asked of TrainJobs since a time, but for watches."""
    return [r for r in api.requests if r.at > since and r.path.startswith(JOBS) and r.method != "WATCH"]


@pytest.mark.parametrize("slow", ["GET", "PATCH"])
def test_a_deletion_is_sent_before_the_container_is_gone(api, slow):
    """Argo signals the process group, so the launcher is gone at once; its container follows."""
    uid = api.put(JOBS, wanted(number=1))["metadata"]["uid"]
    api.write(api.pod(NAME, 0), "step 1")  # and more would come
    if slow == "PATCH":
        api.hold("PATCH")  # the step is cancelled while it takes the job over
    with start(LAUNCHER, sys.executable, "-c", STEP, start_new_session=True) as launcher:
        if slow == "GET":
            until(lambda: "step 1" in launcher.stdout.readline())
            until(lambda: api.sent(f"WATCH {JOBS}"))
            api.hold(f"GET {JOBS}")  # the server is busy: who looks first comes too late
        until(lambda: api.sent("PATCH"))
        begin = time.monotonic()
        os.killpg(launcher.pid, signal.SIGTERM)
        assert launcher.wait(10) == -signal.SIGTERM
        time.sleep(max(0.0, begin + 0.3 - time.monotonic()))
        with suppress(ProcessLookupError):  # it had ended already
            os.killpg(launcher.pid, signal.SIGKILL)
    until(lambda: NAME not in api.objects[JOBS])
    (deletion,) = asked(api, begin)
    assert (deletion.method, deletion.json["preconditions"]) == ("DELETE", {"uid": uid})


def test_a_step_that_nobody_listens_to_any_more_ends_without_a_traceback(api):
    with start(STEP, stderr=subprocess.PIPE) as step:
        until(lambda: api.sent(f"WATCH {JOBS}"))
        step.stdout.close()
        step.send_signal(signal.SIGTERM)
        err = step.stderr.read()
    assert NAME not in api.objects[JOBS]
    assert "Traceback" not in err


def test_a_job_whose_creation_is_not_answered_is_looked_for_and_deleted(api):
    """The signal interrupts a request in the middle of its answer."""
    api.hold(f"POST {JOBS}", late=True)
    with start(STEP) as step:
        until(lambda: NAME in api.objects[JOBS])
        begin = time.monotonic()
        step.send_signal(signal.SIGTERM)
        out, _ = step.communicate(timeout=20)
    assert step.returncode == 143 and time.monotonic() - begin < 10
    assert [request.method for request in asked(api, begin)] == ["GET", "DELETE"]
    assert NAME not in api.objects[JOBS]
    assert out == f"TrainJob {NAME}: the step is cancelled, so it is deleted\n"


def test_a_job_that_is_made_anew_after_another_was_lost_is_looked_for_and_deleted(api):
    """The one that this attempt came too late to take over is no longer its own."""
    api.put(JOBS, wanted(number=1))
    taking_over = api.hold("PATCH")
    with start(STEP) as step:
        until(lambda: api.sent("PATCH"))
        api.remove(JOBS, NAME)
        api.hold(f"POST {JOBS}", late=True)
        taking_over.set()
        until(lambda: NAME in api.objects[JOBS])
        begin = time.monotonic()
        step.send_signal(signal.SIGTERM)
        step.communicate(timeout=20)
    assert [request.method for request in asked(api, begin)] == ["GET", "DELETE"]
    assert NAME not in api.objects[JOBS]


def cancelled(job):
    """How a step ends that is told to end while it follows a job."""
    with pytest.raises(SystemExit) as ended, follow._deleted_if_cancelled(Cluster(), wanted(number=2)) as ours:
        ours.job = job
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    return ended.value


def test_a_deletion_that_fails_is_sent_again(api):
    job = api.put(JOBS, wanted(number=2))
    api.fail("DELETE", 503, times=2)
    assert cancelled(job).code == 143
    assert len(api.sent("DELETE")) == 3 and NAME not in api.objects[JOBS]


@pytest.mark.parametrize("fault", ["hangs", "refuses"])
def test_a_server_that_does_not_delete_does_not_hold_the_step_up(api, capsys, monkeypatch, fault):
    monkeypatch.setattr(follow, "CANCELLATION", 1.0)
    job = api.put(JOBS, wanted(number=2))
    api.hold("DELETE") if fault == "hangs" else api.fail("DELETE", 503, times=10**6)
    begin = time.monotonic()
    assert cancelled(job).code == 143
    assert time.monotonic() - begin < 10, "the pod has 30 s, and the server's answer 60"
    assert f"warning: TrainJob {NAME} is not deleted: http://127.0.0.1:" in capsys.readouterr().out


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
