"""The TrainJob of these tests, and what a cluster does with it in the course of time."""

import threading
import time

from sppo.training.workers.trainjob.spec import Pods, Training, job_name, train_job
from tests.unit.trainjob.state import NAMESPACE

URI = "s3://bucket/runs/helpful"
KEY = "iteration-2/model-1a2b3c4d"
NAME = job_name(URI, 2, KEY)


def attempt(number):
    """The pod of an attempt at the step, as an owner."""
    return {"apiVersion": "v1", "kind": "Pod", "name": f"launch-{number}", "uid": f"uid-of-launch-{number}"}


def wanted(digest: str = "aa" * 32, number=None, **pods):
    """The TrainJob, as an attempt in a pod asks for it, or one outside of Kubeflow Pipelines."""
    owned_by = [] if number is None else [attempt(number)]
    training = Training(URI, f"{URI}#5e6f7a8b", 2, 4, KEY, digest)
    return train_job(training, Pods(nodes=2, image="train:1", **pods), NAMESPACE, "sppo-runner", owned_by)


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
