"""The pods of a TrainJob while it runs: the log of rank 0 as it grows, and what ended a pod."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import NamedTuple, Self

from sppo.errors import KINDS, ConfigError, RunFailedError, SppoError
from sppo.training.workers.trainjob.client import Cluster, Expired, Missing
from sppo.training.workers.trainjob.spec import NODE, Json

TAIL = 100
"""Lines of a failed pod that are read: torchrun ends it with a traceback of its own, and a summary."""
SHOWN = 20
"""Lines of them that are shown: the last before torchrun's."""
PAUSE = 2.0
"""Seconds before a log or a watch that ended is begun again."""
DRAIN = 60.0
"""Seconds that the next line of a log is waited for, once its container has ended."""
_INDEX = "batch.kubernetes.io/job-completion-index"
_ROOT_CAUSE = re.compile(r"Root Cause.*?exitcode\s*: (-?\d+)", re.DOTALL)
_TORCHRUN = "torch/distributed/elastic/multiprocessing/api.py"


class Failure(NamedTuple):
    """How a pod ended."""

    pod: str
    reason: str
    exit_code: int
    ended: str
    tail: list[str]

    @property
    def cause(self) -> int:
        """The exit code of the process that failed first: torchrun ends with 1 whatever its processes end with."""
        told = _ROOT_CAUSE.search("\n".join(self.tail))
        return int(told[1]) if told else self.exit_code

    def lines(self) -> list[str]:
        """The last lines of what torchrun ran."""
        own = next((i for i, line in enumerate(self.tail) if _TORCHRUN in line), 0)
        return (self.tail[:own] or self.tail)[-SHOWN:]

    def weight(self) -> tuple[int, str]:
        """The least is the failure that the others follow from: peers of a pod that is gone end with other errors."""
        if self.cause == ConfigError.exit_code:
            return 0, self.ended
        if self.reason not in {"Error", ""}:
            return 1, self.ended
        return (3 if self.exit_code in {137, 143} else 2), self.ended


class PodFollower:
    """Two threads that watch the pods of a TrainJob and print the log of rank 0 while the context lasts.

    When it is left, the log is printed to its end; not so where the step is cancelled, or the server does not answer.
    Nothing is printed after that: a thread that still waits for the server would speak amid what follows.
    """

    def __init__(self, cluster: Cluster, name: str, watching: bool = True) -> None:
        """Start the threads.

        Args:
            cluster: where the pods are.
            name: the TrainJob's.
            watching: whether the job still runs; else its pods are looked at once, when the context is left.
        """
        self.cluster, self.name = cluster, name
        self.failures: dict[str, Failure] = {}
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._said: dict[str, str] = {}
        self._ended: set[str] = set()
        self._started: set[str] = set()
        self._seeing = threading.Lock()  # held until what a pod tells is said and known, with a failed one's last lines
        self._rank_0: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._stopping = threading.Event()
        self._printing = threading.Lock()
        self._left = False
        self._progress = time.monotonic()  # when the log last grew, or its container still ran
        self._printer = threading.Thread(target=self._guard, args=(self._log,), name=f"the log of {name}", daemon=True)
        self._printer.start()
        if watching:
            threading.Thread(target=self._guard, args=(self._watch,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        at_end = kind is None or issubclass(kind, RunFailedError)
        if at_end:
            self._guard(self._look)  # the watch may be behind: a pod may have started, or failed, since its last event
        self._stopping.set()
        self._rank_0.put(None)
        if at_end:
            self._drain()
        with self._printing:
            self._left = True

    def error(self, why: str) -> SppoError:
        """The error of a job that failed: why it did, as the pods tell it.

        Args:
            why: what the job's own condition says.
        """
        with self._seeing:
            failures = list(self.failures.values())
        if not failures:
            lines = list(self.tail)[-SHOWN:]
            return RunFailedError(
                f"TrainJob {self.name} failed: {why}" + ("; the last lines:" if lines else ""), *lines
            )
        first = min(failures, key=Failure.weight)
        code = f"exit code {first.cause}" if first.cause >= 0 else f"signal {-first.cause}"
        told = f"TrainJob {self.name} failed: pod {first.pod}: {first.reason or 'ended'}, {code} ({why})"
        kind = KINDS.get(first.cause, RunFailedError)
        return kind(told + ("; its last lines:" if first.tail else ""), *first.lines())

    def _drain(self) -> None:
        """Wait until the log is printed, for as long as it grows: on a busy host that takes its time."""
        self._progress = time.monotonic()
        while self._printer.is_alive():
            if time.monotonic() - self._progress > DRAIN:
                self._say("", f"warning: the end of rank 0's log is missing: no line of it came for {DRAIN:g} s")
                return
            self._printer.join(0.1)

    def _guard(self, work: Callable[[], object]) -> None:
        """A right that is missing costs the log, not the training."""
        try:
            work()
        except SppoError as error:
            with self._seeing:
                self._say("", f"warning: {error}; the training goes on")

    def _say(self, pod: str, text: str) -> None:
        if text and self._said.get(pod) != text:
            self._print(f"{pod}: {text}" if pod else text)
        self._said[pod] = text

    def _print(self, text: str) -> None:
        with self._printing:
            if not self._left:
                print(text, flush=True)

    def _look(self) -> str:
        """See all pods; the version of this state."""
        pods, version = self.cluster.pods(self.name)
        self._ended |= self._started - {_container(pod).get("containerID", "") for pod in pods}
        for pod in pods:
            self._see(pod)
        return version

    def _watch(self) -> None:
        while not self._stopping.is_set():
            version = self._look()
            try:
                for kind, pod in self.cluster.watch_pods(self.name, version):
                    self._see(pod, gone=kind == "DELETED")
            except Expired:
                self._stopping.wait(PAUSE)

    def _see(self, pod: Json, gone: bool = False) -> None:
        name, container = pod["metadata"]["name"], _container(pod)
        state, before = container.get("state") or {}, container.get("lastState") or {}
        identity, labels = container.get("containerID", ""), pod["metadata"].get("labels") or {}
        with self._seeing:
            self._say(name, _waiting(pod, state))
            if "terminated" in before:
                self._ended.add(before["terminated"].get("containerID", ""))
            if "terminated" in state or gone:
                self._ended.add(identity)
            self._record(pod, before.get("terminated"), previous=True)
            self._record(pod, state.get("terminated"), previous=False)
            if identity and labels.get(_INDEX) == "0" and identity not in self._started and "waiting" not in state:
                self._started.add(identity)
                self._rank_0.put((name, identity))

    def _record(self, pod: Json, terminated: Json | None, previous: bool) -> None:
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        if terminated and terminated.get("exitCode"):
            reason, code, ended = terminated.get("reason", ""), terminated["exitCode"], terminated.get("finishedAt", "")
        elif not previous and not terminated and status.get("phase") == "Failed":
            reason, code, ended = f"{status.get('reason', '')}: {status.get('message', '')}".strip(": "), 137, ""
        else:
            return
        known = self.failures.get(name)
        if known is None or (known.reason, known.exit_code, known.ended) != (reason, code, ended):
            tail = self.cluster.log_tail(name, NODE, TAIL, previous)
            self.failures[name] = Failure(name, reason, code, ended, tail)

    def _log(self) -> None:
        while (target := self._rank_0.get()) is not None:
            try:
                self._print_log(*target)
            except Missing:
                continue

    def _print_log(self, pod: str, identity: str) -> None:
        last, heard = datetime.min, None
        while True:
            # Asked before the log is read: what is read after the container's end is all that there is.
            ended, whole = identity in self._ended or self._stopping.is_set(), True
            try:
                since = None if heard is None else int(time.monotonic() - heard) + 2
                for line in self.cluster.log(pod, NODE, since):
                    heard, (at, text) = time.monotonic(), _timed(line)
                    self._progress = heard
                    if at is None or at > last:
                        last = at or last
                        self.tail.append(text)
                        self._print(text)
            except Expired:
                whole = False
            if not ended:
                self._progress = time.monotonic()
                self._stopping.wait(PAUSE)
            elif whole or time.monotonic() - self._progress > DRAIN:
                return
            else:
                time.sleep(PAUSE)


def _container(pod: Json) -> Json:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == NODE), {})


def _waiting(pod: Json, state: Json) -> str:
    """What keeps a pod from starting, if something does: no node for it, or no image."""
    waiting = state.get("waiting") or {}
    if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
        return f"{waiting['reason']}: {waiting.get('message', '')}"
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    return ""


def _timed(line: str) -> tuple[datetime | None, str]:
    """The time that the server put before a line, and the line."""
    stamp, _, text = line.partition(" ")
    try:
        return datetime.fromisoformat(stamp).replace(tzinfo=None), text
    except ValueError:
        return None, line
