"""Further tries of a stage inside its pod, as Kubeflow Pipelines 2.17 tries again only what was deleted.

Its ConfigMap sets Argo's retry policy `OnError`, which stays when a task asks for a number of retries. So a pod that
was deleted comes back, and one that failed does not, whatever its exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from sppo.errors import InfrastructureError

RETRIES = "SPPO_RETRIES"
"""The variable that says how many further tries there are; none where it is not set."""
FIRST_WAIT, FACTOR = 30.0, 2.0
"""Seconds before the second try, and how much longer each later wait is: as Argo waits for a deleted pod."""
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGKILL}
"""Signals that end a process whose input may be right: a library crashed, or something killed it."""
STEP = 0.1
"""Seconds after which a wait looks whether a signal came."""

R = TypeVar("R")


def supervised(work: Callable[[], R]) -> R:
    """Do a stage's work; where the pod asks for it, in a process of its own, and several times if need be.

    Tried again is what ends with exit code 3, and what dies of one of `CRASHES` while this process got no signal. Other
    ends are the stage's own: the same input would end so again. The pod's time limit covers all tries.

    Raises:
        SystemExit: with the last try's exit code, or with the one that a signal stands for.
    """
    retries = int(os.environ.get(RETRIES) or 0)
    if not retries or "WORLD_SIZE" in os.environ:  # torchrun's workers fail together: who started them tries again
        return work()
    supervisor = _Supervisor(work)
    before = {number: signal.signal(number, supervisor.hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for attempt in range(1, retries + 2):
            code = supervisor.attempt(before)
            if code == 0:
                return supervisor.result
            if supervisor.told or not _may_pass(code):
                break
            wait = FIRST_WAIT * FACTOR ** (attempt - 1)
            next_one = f"try {attempt + 1} of {retries + 1} in {wait:g} s" if attempt <= retries else "no try is left"
            print(f"the stage ended with {_words(code)}: {next_one}", flush=True)
            if attempt <= retries and not supervisor.wait(wait):
                break
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    raise SystemExit(code if code > 0 else 128 + (supervisor.told or -code))


class _Supervisor(Generic[R]):
    """The process that does the work, and the signal that came for it."""

    result: R

    def __init__(self, work: Callable[[], R]) -> None:
        self.work = work
        self.told = 0
        self._context = multiprocessing.get_context("fork")  # nothing heavy is loaded yet: a stage imports it itself
        self._process = self._context.Process()

    def hand_on(self, number: int, _: Any) -> None:
        """A signal is for the stage: it ends in order, and is not tried again."""
        self.told = number
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)

    def attempt(self, handlers: dict[signal.Signals, Any]) -> int:
        """One try: its exit code; negative for a signal that ended it."""
        receiver, sender = self._context.Pipe(duplex=False)
        self._process = self._context.Process(target=_child, args=(self.work, sender, handlers))
        self._process.start()
        sender.close()
        if self.told:  # it came before there was a process
            self.hand_on(self.told, None)
        with suppress(EOFError):  # where there is none, the exit code says why
            self.result = receiver.recv()
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def wait(self, seconds: float) -> bool:
        """Wait before another try; False if a signal came meanwhile."""
        end = time.monotonic() + seconds
        while not self.told and time.monotonic() < end:
            time.sleep(STEP)
        return not self.told


def _child(work: Callable[[], R], sender: Connection, handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.environ[RETRIES] = "0"  # a stage inside this one is part of the same try
    try:
        result = work()
    except KeyboardInterrupt:  # multiprocessing would make it 1, the code of a defect
        raise SystemExit(128 + signal.SIGINT) from None
    sender.send(result)


def _may_pass(code: int) -> bool:
    return code == InfrastructureError.exit_code or -code in CRASHES


def _words(code: int) -> str:
    return f"exit code {code}" if code > 0 else signal.Signals(-code).name
