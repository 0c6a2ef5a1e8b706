"""`sppo logs`: what a stage of a run printed, now or as it grows."""

from __future__ import annotations

import sys
import time

from sppo.errors import ConfigError
from sppo_pipelines.screen import duration
from sppo_pipelines.submission import run as runs
from sppo_pipelines.submission.client import Client
from sppo_pipelines.submission.podlog import NoLogError, read_log
from sppo_pipelines.submission.progress import ENDED, PLAYED, Task, TaskKey, tasks
from sppo_pipelines.submission.run import Run, look
from sppo_pipelines.submission.workflow import Node


def show_logs(
    client: Client, run_id: str, stage: str, iteration: int | None, shard: int | None, follow: bool = False
) -> None:
    """Print the log of the one task that is meant, or list those that may be meant.

    Args:
        client: the server.
        run_id: the run.
        stage: whose log; empty for any stage's, and in a run that failed for that of what failed.
        iteration: only of this iteration.
        shard: only of this shard.
        follow: go on until the task ends.

    Raises:
        ConfigError: if no such task has begun.
        InfrastructureError: if the log cannot be read.
    """
    if stage and stage not in PLAYED:
        raise ConfigError(f"{stage}: no stage; the stages are {', '.join(PLAYED)}")
    run = look(client, run_id)
    begun = tasks(run.workflow)
    meant = [task for task in begun if _matches(task.key, stage, iteration, shard)]
    if not (stage or iteration is not None or shard is not None):
        meant = [task for task in begun if task.state == "FAILED"] or begun
    if not meant:
        others = f"; those that have: {'; '.join(task.key.flags for task in begun)}" if begun else ""
        raise ConfigError(f"{run_id}: no such task has begun{others}")
    if len(meant) > 1:
        _list(meant)
    elif follow:
        _follow(client, run, meant[0].key)
    else:
        _print(client, run, meant[0])


def _matches(key: TaskKey, stage: str, iteration: int | None, shard: int | None) -> bool:
    return stage in {"", key.name} and iteration in {None, key.iteration} and shard in {None, key.shard}


def _list(meant: list[Task]) -> None:
    """The tasks, each with what chooses it."""
    width = max(len(task.key.flags) for task in meant)
    for task in meant:
        lasted = duration((task.ended - task.started).total_seconds()) if task.ended and task.started else ""
        print(f"{task.key.flags:<{width}}  {task.state.lower():<9}  {lasted}".rstrip())


def _print(client: Client, run: Run, task: Task) -> None:
    if not task.pods:
        raise NoLogError(f"{task.key.title}: no pod of it has been made yet")
    _tell(task, task.pods[-1])
    print(read_log(client, run, task.pods[-1]), end="", flush=True)


def _tell(task: Task, pod: Node) -> None:
    """Which pod it is, apart from what it printed."""
    number = task.pods.index(pod) + 1
    attempt = f"attempt {number} of {len(task.pods)}, " if len(task.pods) > 1 else ""
    print(f"{task.key.title}: {attempt}pod {pod.pod}", file=sys.stderr, flush=True)


def _follow(client: Client, run: Run, key: TaskKey) -> None:
    """Print a task's log as it grows, that of the newest attempt, until the task or the run ends.

    Blank lines are left out: the server leaves them out itself once it reads the log from its archive.
    """
    shown: Node | None = None
    printed = 0
    while True:
        task = next((task for task in tasks(run.workflow) if task.key == key), None)
        ended = run.state in ENDED or (task is not None and task.state in ENDED)
        if task is not None and task.pods and (shown is None or task.pods[-1].id != shown.id):
            shown, printed = task.pods[-1], 0
            _tell(task, shown)
        if shown is not None:
            lines = _lines(client, run, shown, ended)
            for line in lines[printed:]:
                print(line, flush=True)
            printed = max(printed, len(lines))
        if ended:
            return
        time.sleep(runs.INTERVAL)
        run = look(client, run.run_id, runs.PATIENCE)


def _lines(client: Client, run: Run, pod: Node, ended: bool) -> list[str]:
    """The lines of a log that are whole; none before the container has started."""
    try:
        text = read_log(client, run, pod)
    except NoLogError:
        if ended:
            raise
        return []
    return [line for line in (text if ended else text[: text.rfind("\n") + 1]).split("\n") if line.strip("\r")]
