"""What ends by infrastructure or a crash is tried again inside the pod, and nothing else is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sppo import stages
from sppo.errors import ConfigError, InfrastructureError, RunFailedError
from sppo.process import supervisor


@pytest.fixture
def tries(tmp_path, monkeypatch):
    """A stage that ends its tries as planned, and tells how many there were."""
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.01)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    log = tmp_path / "log"

    def work(*plan, retries="2"):
        monkeypatch.setenv(supervisor.RETRIES, retries)

        @stages.stage
        def stage():
            done = len(log.read_text()) if log.exists() else 0
            with log.open("a") as file:
                file.write(".")
            end = plan[done]
            if isinstance(end, signal.Signals):
                os.kill(os.getpid(), end)
                time.sleep(60)
            if isinstance(end, BaseException):
                raise end
            return end

        return stage

    work.count = lambda: len(log.read_text())
    return work


def test_a_stage_that_succeeds_gives_its_result(tries):
    assert tries({"figures": [1.5]})() == {"figures": [1.5]}
    assert tries.count() == 1


def test_infrastructure_is_tried_again(tries, capfd):
    assert tries(InfrastructureError("no store"), InfrastructureError("no store"), "done")() == "done"
    assert tries.count() == 3
    told = capfd.readouterr()
    assert told.err.count("error: no store\n") == 2
    assert "the stage ended with exit code 3: try 2 of 3 in 0.01 s\n" in told.out
    assert "the stage ended with exit code 3: try 3 of 3 in 0.02 s\n" in told.out


@pytest.mark.parametrize("number", sorted(supervisor.CRASHES))
def test_a_crash_is_tried_again(tries, number, capfd):
    assert tries(number, "done")() == "done"
    assert f"the stage ended with {number.name}: try 2 of 3" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (ConfigError("wrong"), 2),
        (RunFailedError("failed"), 4),
        (SystemExit(143), 143),
        (ValueError("a defect"), 1),
        (signal.SIGTERM, 143),
    ],
)
def test_what_would_end_so_again_is_not_tried_again(tries, end, code):
    with pytest.raises(SystemExit) as ended:
        tries(end)()
    assert (ended.value.code, tries.count()) == (code, 1)


@pytest.mark.parametrize(("end", "code"), [(InfrastructureError("gone"), 3), (signal.SIGSEGV, 139)])
def test_the_last_try_gives_the_exit_code(tries, end, code, capfd):
    with pytest.raises(SystemExit) as ended:
        tries(end, end, retries="1")()
    assert (ended.value.code, tries.count()) == (code, 2)
    assert capfd.readouterr().out.endswith(": no try is left\n")


@pytest.mark.parametrize("retries", ["0", ""])
def test_without_retries_the_stage_runs_in_this_process(tries, retries):
    with pytest.raises(SystemExit) as ended:
        tries(InfrastructureError("gone"), retries=retries)()
    assert (ended.value.code, tries.count()) == (3, 1)


def test_workers_of_torchrun_are_not_supervised(tries, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        tries(InfrastructureError("gone"), retries="2")()
    assert tries.count() == 1


STAGE = """
import sys, time
from sppo import stages
from sppo.process import supervisor
from sppo.errors import InfrastructureError
supervisor.FIRST_WAIT = 60

@stages.stage
def work(how):
    if how == "waits":
        raise InfrastructureError("gone")
    print("works", flush=True)
    time.sleep(60)

work(sys.argv[1])
"""


@pytest.mark.parametrize(("how", "line"), [("works", "works\n"), ("waits", "the stage ended with exit code 3: try 2")])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_stage_and_is_not_followed_by_a_try(how, line, number, code):
    with subprocess.Popen(
        [sys.executable, "-c", STAGE, how],
        env={**os.environ, supervisor.RETRIES: "2", "PYTHONPATH": str(Path(stages.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test in the background ignores it
    ) as process:
        assert process.stdout is not None and process.stdout.readline().startswith(line)
        before = time.monotonic()
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(10) == code or (how, process.returncode) == ("waits", 3)
    assert time.monotonic() - before < 5 and "try 2" not in rest
