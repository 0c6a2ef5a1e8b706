"""Where a run stands: its stages by iteration, and its gate, from the tasks that the API lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from pipelines.sppo import GATE_FAILED, GATE_PASSED
from pipelines.submission.client import Json

ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
"""States that a run does not leave by itself."""
_STAGE = re.compile(r"(prepare|generate|rank|train|evaluate|publish|bench)(-\d+)?")
_AT_THE_END = {"publish", "bench"}
_WHOLE_RUN = {"prepare", *_AT_THE_END}
_ORDER = ("prepare", "generate", "rank", "train", "evaluate", "publish", "bench")


class Task(NamedTuple):
    """One node of the run, such as a shard's generate."""

    stage: str
    state: str
    started: datetime | None
    ended: datetime | None


class Stage(NamedTuple):
    """One stage of an iteration, or of the whole run (iteration 0), with all its shards."""

    iteration: int
    name: str
    tasks: tuple[Task, ...]

    @property
    def state(self) -> str:
        """The state that needs most attention among the shards."""
        states = {task.state for task in self.tasks}
        return next((s for s in ("FAILED", "CANCELED", "RUNNING", "PENDING") if s in states), self.tasks[0].state)

    @property
    def done(self) -> int:
        """Shards that succeeded."""
        return sum(task.state == "SUCCEEDED" for task in self.tasks)

    @property
    def seconds(self) -> float:
        """From the first shard's start to the last one's end, or to now; 0 before the start."""
        started = [task.started for task in self.tasks if task.started]
        if not started:
            return 0.0
        last = max(task.ended or datetime.now(UTC) for task in self.tasks)
        return max(0.0, (last - min(started)).total_seconds())

    @property
    def title(self) -> str:
        """Its name, and which iteration's it is."""
        return f"self-play {self.iteration} {self.name}" if self.iteration else self.name


def stages(run: Json) -> list[Stage]:
    """The stages of a run that have begun, in the order of the loop.

    The API tells of a task neither its parent nor its iteration. Iterations follow one another, so a task belongs to
    the iteration after the last evaluate that had ended when it began.
    """
    tasks = [task for task in map(_task, _details(run)) if task is not None and task.started]
    evaluated = [task.ended for task in tasks if task.stage == "evaluate" and task.state == "SUCCEEDED" and task.ended]
    found: dict[tuple[int, str], list[Task]] = {}
    for task in tasks:
        before = sum(end <= task.started for end in evaluated if task.started and end != task.ended)
        found.setdefault((0 if task.stage in _WHOLE_RUN else before + 1, task.stage), []).append(task)
    listed = [Stage(iteration, name, tuple(each)) for (iteration, name), each in found.items()]
    return sorted(listed, key=lambda s: (s.name in _AT_THE_END, s.iteration, _ORDER.index(s.name)))


def gate(run: Json) -> bool | None:
    """Whether the gate is passed; None as long as the run has not told."""
    ended = {detail.get("display_name") for detail in _details(run) if detail.get("state") == "SUCCEEDED"}
    told = ended & {GATE_PASSED, GATE_FAILED}
    return told == {GATE_PASSED} if told else None


def _details(run: Json) -> Iterable[Json]:
    return (run.get("run_details") or {}).get("task_details") or []


def _task(detail: Json) -> Task | None:
    named = _STAGE.fullmatch(detail.get("display_name") or "")
    state = detail.get("state") or "PENDING"
    if named is None or state in {"SKIPPED", "RUNTIME_STATE_UNSPECIFIED"}:
        return None
    ended = _time(detail.get("end_time")) if state in ENDED else None
    return Task(named[1], state, _time(detail.get("start_time")), ended)


def _time(text: str | None) -> datetime | None:
    """A time of the API; it writes the year 1970 or 1 for none."""
    if not text:
        return None
    time = datetime.fromisoformat(text)
    return time if time.year > 1970 else None
