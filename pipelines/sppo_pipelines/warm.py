"""A process that has imported what stages need, and forks for each of them: imports are half of a short stage's time.

    sppo run ── starts ──► server ── forks ──► stage
        └─ the local runner's command ─► client ──┘

The local runner starts a command for each stage and reads what it prints. With a warm server that command is a client,
which hands its arguments, environment, folder and output over to the server, and ends as the forked process does. That
process runs kfp's executor as the command would have done (`executor.py`). Pods on a cluster start as they always did.

What starts threads that a fork would lose is only imported, never used, before it.
"""

from __future__ import annotations

import array
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sppo.config.sections.section import Stage

VLLM = (
    "vllm.entrypoints.llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm.lora.request",
    "compressed_tensors",
)
"""What an engine imports, where vLLM is installed; before MLflow, after whose Flask it does not load."""
IMPORTED = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "boto3",
    "alembic",
    "pyarrow.dataset",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "sppo.sampling.generate",
    "sppo.judging.rank",
    "sppo.training.train",
    "sppo.evaluation.evaluate",
    "sppo.reporting.publish",
    "sppo.stages",
    "kfp.dsl.executor_main",
)
"""What stages import, in this order; some only when they need it."""
KFP_EXECUTOR, EXECUTOR = "kfp.dsl.executor_main", "sppo_pipelines.executor"
"""What kfp starts for a stage, and what stands in its place here."""
CLIENT = Path(__file__).with_name("warm_client.py")
SOCKET, READY = "socket", "ready"


class Warm:
    """A server, or none."""

    def __init__(self, folder: Path, server: subprocess.Popen[bytes] | None = None) -> None:
        self.folder = folder
        self.server = server

    def command(self, command: Sequence[str]) -> list[str]:
        """What is to be started in the place of a stage's command: a client, or without a server a process alone.

        A server that still imports is waited for. It has begun before the stage, which would import the same beside it.
        """
        plain, ours = f"{sys.executable} -m {KFP_EXECUTOR}", f"{sys.executable} -m {EXECUTOR}"
        while self.server and self.server.poll() is None and not (self.folder / READY).exists():
            time.sleep(0.05)
        if (self.folder / READY).exists():
            ours = f"{sys.executable} -I -S {CLIENT} {self.folder / SOCKET} {EXECUTOR}"
        return [part.replace(plain, ours) for part in command]


@contextmanager
def warm_server(names: Sequence[str]) -> Iterator[Warm]:
    """Start a server, which imports in the background, and end it at last with all that it forked.

    Args:
        names: the modules that it imports; none: there is no server.
    """
    with tempfile.TemporaryDirectory(prefix="sppo-warm-") as folder:
        if not names:
            yield Warm(Path(folder))
            return
        life, ours = os.pipe()  # the server sees its end when this process is gone, however it ended
        command = [sys.executable, "-m", __name__, folder, str(life), *names]
        # What libraries say while they are imported is no stage's. If one fails, the stages start as they would alone.
        null = subprocess.DEVNULL
        server = subprocess.Popen(command, pass_fds=[life], stdin=null, stdout=null, stderr=null)
        os.close(life)
        try:
            yield Warm(Path(folder), server)
        finally:
            os.close(ours)
            if not (Path(folder) / READY).exists():  # it has forked nothing, and would first import to the end
                server.terminate()
            server.wait()


def imports_for(stages: Collection[Stage], engine: str = "vllm") -> Sequence[str]:
    """What a server is to import for a run; nothing where it has nothing left to do.

    Args:
        stages: that are left.
        engine: that samples.
    """
    if not stages:
        return ()
    # Whose model is not trained yet will sample; an evaluation alone mostly finds the answers that it needs.
    samples = engine == "vllm" and not {"generate", "train"}.isdisjoint(stages) and find_spec("vllm")
    return (*(VLLM if samples else ()), *IMPORTED)


class Request(NamedTuple):
    """What a client hands over; its two files are its output and its errors."""

    argv: list[str]
    """A module that is to be run, and its arguments."""
    folder: str
    environment: dict[str, str]
    files: list[int]


class _Stages:
    """What was forked and goes on, by the descriptor that tells of its end."""

    def __init__(self, events: selectors.BaseSelector) -> None:
        self.events = events
        self.running: dict[int, tuple[int, socket.socket]] = {}

    def fork(self, client: socket.socket) -> Request | None:
        """Fork for a client; its request in the forked process, None in this one."""
        request = _receive(client)
        if request is None:  # it was ended meanwhile
            client.close()
            return None
        child = os.fork()
        if child == 0:
            for theirs in (client, *(other for _, other in self.running.values())):
                theirs.close()
            return request
        for file in request.files:
            os.close(file)
        end = os.pidfd_open(child)
        self.running[end] = child, client
        self.events.register(end, selectors.EVENT_READ)
        return None

    def ended(self, end: int) -> None:
        """Tell a client how its process ended."""
        self.events.unregister(end)
        os.close(end)
        child, client = self.running.pop(end)
        with client, suppress(BrokenPipeError):  # who asked may be gone
            client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())

    def end(self) -> None:
        """End all that go on."""
        for child, _ in self.running.values():
            os.kill(child, signal.SIGTERM)
        for child, _ in self.running.values():
            os.waitpid(child, 0)


def serve(folder: Path, life: int) -> Request:
    """Fork for every request until `life` ends; returns in the forked process, with what it is asked to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the stages get it too
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as events:
        listening.bind(str(folder / SOCKET))
        listening.listen()
        (folder / READY).touch()
        events.register(listening, selectors.EVENT_READ)
        events.register(life, selectors.EVENT_READ)
        stages = _Stages(events)
        while True:
            for key, _ in events.select():
                if key.fd == life:
                    stages.end()
                    sys.exit()
                if key.fd != listening.fileno():
                    stages.ended(key.fd)
                elif request := stages.fork(listening.accept()[0]):
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    os.close(life)
                    return request


def _receive(client: socket.socket) -> Request | None:
    """A request: its length in a line of its own with the two files, then JSON; None if it is not whole."""
    files = array.array("i")
    head, ancillary, _, _ = client.recvmsg(64, socket.CMSG_SPACE(2 * files.itemsize))
    for _, _, data in ancillary:
        files.frombytes(data)
    size, _, body = head.partition(b"\n")
    while len(body) < int(size or 1) and (part := client.recv(1 << 20)):
        body += part
    if not size or len(body) < int(size):
        for file in files:
            os.close(file)
        return None
    asked: dict[str, Any] = json.loads(body)
    return Request(asked["argv"], asked["folder"], asked["environment"], list(files))


def become(request: Request) -> None:
    """Take on what a client would have been, and run its module."""
    for number, (name, file) in enumerate(zip(("stdout", "stderr"), request.files, strict=True), start=1):
        os.dup2(file, number)
        os.close(file)
        # Python's own are of what the server had there, and every line is to be seen as it is printed.
        stream = open(number, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as it lives
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = request.argv
    runpy.run_module(request.argv[0], run_name="__main__", alter_sys=True)


def main() -> None:
    """Import, then serve."""
    from sppo.process.surroundings import put_right
    from sppo.sampling.vllm_engine import set_environment

    folder, life, *names = sys.argv[1:]
    put_right()
    set_environment()
    for name in names:
        import_module(name)
    gc.freeze()  # what is there stays: no collection in a stage needs to look at it, or to copy its pages
    become(serve(Path(folder), int(life)))


if __name__ == "__main__":
    main()
