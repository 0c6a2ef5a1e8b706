"""Stages in processes that a warm server forks: they are what the command would have been that they stand for."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sppo_pipelines.warm import CLIENT, EXECUTOR, KFP_EXECUTOR, READY, SOCKET, Warm, imports_for, warm_server

STAGE = """
import json, os, sys, time
import colorsys
if sys.argv[1] == "sleep":
    print(os.getpid(), flush=True)
    time.sleep(60)
if sys.argv[1] == "die":
    os.kill(os.getpid(), int(sys.argv[2]))
print(json.dumps({"argv": sys.argv, "folder": os.getcwd(), "mine": os.environ.get("MINE"), "parent": os.getppid()}))
print("an error", file=sys.stderr)
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def warm(tmp_path, monkeypatch):
    """A server that finds the module `a_stage`."""
    place_stage(tmp_path, monkeypatch)
    with warm_server(["colorsys"]) as server:
        wait_for(server.folder / READY)
        yield server


def place_stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a_stage.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def play(warm: Warm, *arguments: str, **options):
    command = [sys.executable, "-I", "-S", str(CLIENT), str(warm.folder / SOCKET), "a_stage", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_stage_has_its_arguments_its_folder_its_environment_and_its_output(warm, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    stages = [
        play(warm, str(number), str(number), cwd=tmp_path / "elsewhere", env={"MINE": f"value {number}"})
        for number in range(3)
    ]
    for number, stage in enumerate(stages):
        out, errors = stage.communicate(timeout=60)
        told = json.loads(out)
        assert (stage.returncode, told["argv"][1:]) == (number, [str(number), str(number)])
        assert (told["folder"], told["mine"]) == (str(tmp_path / "elsewhere"), f"value {number}")
        assert (told["parent"], errors) != (os.getpid(), "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_stage_that_a_signal_ends_is_seen_to(warm, number):
    assert play(warm, "die", str(int(number))).wait(timeout=60) == -number


@pytest.mark.parametrize("sent", [b"", b"12\n{"])
def test_a_client_that_is_gone_before_it_has_asked_holds_nobody_up(warm, sent):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(warm.folder / SOCKET))
        client.sendall(sent)
    assert play(warm, "next", "7").wait(timeout=60) == 7


def test_a_client_that_is_killed_holds_nobody_up(warm):
    stage = play(warm, "sleep", "0")
    number = int(stage.stdout.readline())
    stage.kill()
    stage.wait(timeout=60)
    os.kill(number, signal.SIGKILL)
    stage.communicate(timeout=60)
    assert play(warm, "next", "7").wait(timeout=60) == 7


def test_the_end_does_not_wait_for_a_server_that_still_imports(monkeypatch, tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    start = time.monotonic()
    with warm_server(["slow"]):
        pass
    assert time.monotonic() - start < 60


def test_stages_end_with_their_server(tmp_path, monkeypatch):
    place_stage(tmp_path, monkeypatch)
    with warm_server(["colorsys"]) as server:
        wait_for(server.folder / READY)
        stage = play(server, "sleep", "0")
        number = int(stage.stdout.readline())
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    stage.communicate(timeout=60)


COMMAND = ["sh", "-c", f"{sys.executable} -m {KFP_EXECUTOR} --component_module_path x", "code"]


def test_a_server_that_still_imports_is_waited_for(monkeypatch, tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    with warm_server(["slow"]) as warm:
        assert not (warm.folder / READY).exists()
        client = f"{sys.executable} -I -S {CLIENT} {warm.folder / SOCKET} {EXECUTOR} --component_module_path x"
        assert warm.command(COMMAND) == ["sh", "-c", client, "code"]


@pytest.mark.parametrize("names", [[], ["a_module_that_is_nowhere"]], ids=["none", "failed"])
def test_without_a_server_a_stage_has_a_process_alone(names):
    with warm_server(names) as warm:
        alone = f"{sys.executable} -m {EXECUTOR} --component_module_path x"
        assert warm.command(COMMAND) == ["sh", "-c", alone, "code"]


@pytest.mark.parametrize(
    ("left", "imports", "samples"),
    [
        (set(), False, False),
        ({"publish", "report"}, True, False),
        ({"evaluate", "publish"}, True, False),
        ({"train", "evaluate", "publish"}, True, True),
        ({"prepare", "generate"}, True, True),
    ],
)
def test_a_run_imports_what_its_stages_need_that_are_left(left, imports, samples):
    names = imports_for(left)
    assert "vllm.entrypoints.llm" not in imports_for(left, "transformers")
    assert bool(names) == imports and ("vllm.entrypoints.llm" in names) == samples
    assert ("sppo.reporting.publish" in names) == imports
