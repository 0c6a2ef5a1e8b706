"""Which stages of a local run are done, which are at work and which are to come, and how long each takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

from sppo.process.dropped import Work
from sppo.process.plan import OF_AN_ITERATION

State = Literal["there", "to come", "now", "done", "failed", "not played"]


class Task(NamedTuple):
    """A stage's work on one of so many shards, or on the whole."""

    stage: str
    iteration: int = 0
    shard: int | None = None
    shards: int = 1

    @property
    def title(self) -> str:
        """What people call it, such as "iteration 1, generate, shard 2"; shards are counted from 1."""
        shard = f", shard {self.shard + 1}" if self.shard is not None and self.shards > 1 else ""
        return f"iteration {self.iteration}, {self.stage}{shard}" if self.iteration else self.stage

    @property
    def work(self) -> Work:
        """What it is a part of; those of no interest commit nothing: keep returns its input, finish tells MLflow."""
        return Work(self.stage, self.iteration)  # type: ignore[arg-type]


class Listener(Protocol):
    """Who is told what tasks do, by several threads."""

    def begun(self, task: Task) -> None:
        """A task's process begins."""

    def said(self, task: Task, line: str) -> None:
        """It printed a line."""

    def ended(self, task: Task, code: int) -> None:
        """It ended with an exit code."""


class Progress:
    """A stage of an iteration, with all its shards."""

    def __init__(self, there: bool) -> None:
        self.there = there
        self.began: float | None = None
        self.seconds = 0.0
        """Once it has ended."""
        self.shards, self.done, self.failed = 1, 0, False
        self.tasks: dict[Task, str] = {}
        """Those that are at work, each with the last line that it printed."""

    @property
    def state(self) -> State:
        """Where it stands; what was there before the run began is there, although its process looks for it again."""
        if self.failed:
            return "failed"
        if self.there:
            return "there"
        if self.done >= self.shards:
            return "done"
        return "to come" if self.began is None else "now"


class Board:
    """The stages of a run in the order of the loop.

    Args:
        iterations: the most that are played.
        there: what is committed already.
        known: seconds that stages of earlier iterations took, in a run that is resumed.
        benchmarks: whether some are run at the end.
    """

    def __init__(
        self, iterations: int, there: frozenset[Work], known: Mapping[Work, float], benchmarks: bool = False
    ) -> None:
        self.iterations, self.known = iterations, dict(known)
        self.start = time.monotonic()
        self.lock = threading.RLock()
        works = [Work("prepare"), *(Work(s, t) for t in range(1, iterations + 1) for s in OF_AN_ITERATION)]
        works += [Work("publish"), *([Work("bench")] if benchmarks else [])]
        self.stages = {work: Progress(work in there) for work in works}

    def begun(self, task: Task) -> None:
        """See `Listener`."""
        with self.lock:
            stage = self.stages.get(task.work)
            if stage is not None:
                stage.tasks[task] = "begins"
                if stage.began is None:
                    stage.began, stage.shards = time.monotonic(), task.shards

    def said(self, task: Task, line: str) -> None:
        """See `Listener`."""
        with self.lock:
            stage = self.stages.get(task.work)
            if stage is not None:
                stage.tasks[task] = line

    def ended(self, task: Task, code: int) -> None:
        """See `Listener`."""
        with self.lock:
            stage = self.stages.get(task.work)
            if stage is None or stage.began is None:
                return
            stage.tasks.pop(task, None)
            stage.failed |= code != 0
            stage.done += code == 0
            if stage.done == stage.shards:
                stage.seconds = time.monotonic() - stage.began
                if not stage.there:
                    self.known[task.work] = stage.seconds

    def state(self, work: Work) -> State:
        """Where a stage stands; an iteration that the gate kept from being played is not to come any more."""
        state = self.stages[work].state
        ends = self.stages[Work("publish")].began is not None
        return "not played" if state == "to come" and work.iteration and ends else state

    def elapsed(self, work: Work) -> float:
        """Seconds that a stage took, or has taken so far."""
        stage = self.stages[work]
        running = bool(stage.tasks) or self.state(work) in {"now", "failed"}
        return time.monotonic() - stage.began if running and stage.began is not None else stage.seconds

    def expected(self, work: Work) -> float | None:
        """Seconds that a stage takes if it takes as long as in the iteration before; None where none was measured."""
        before = (Work(work.stage, t) for t in range(work.iteration - 1, 0, -1))
        return next((self.known[each] for each in before if each in self.known), None)

    def left(self) -> float | None:
        """Seconds until the last iteration ends, if all are played and each takes as long as the one before.

        Returns:
            None where that is not known, or none is left.
        """
        total = 0.0
        for work in self.stages:
            if not work.iteration or self.state(work) not in {"now", "to come"}:
                continue
            expected = self.expected(work)
            if expected is None:
                return None
            total += max(0.0, expected - self.elapsed(work))
        return total or None

    def at_work(self) -> Iterator[tuple[Task, str]]:
        """The tasks that are at work now, each with the last line that it printed."""
        for stage in self.stages.values():
            yield from sorted(stage.tasks.items(), key=lambda each: each[0].shard or 0)
