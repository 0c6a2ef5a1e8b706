"""A step that is told to end takes its TrainJob with it."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from sppo.trainjob import follow
from sppo.trainjob.client import Cluster
from tests.unit.trainjob.jobs import NAME, complete, until, wanted
from tests.unit.trainjob.server import JOBS

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
