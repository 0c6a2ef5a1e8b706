"""What kfp's local runner lacks (2.17.3): it tells of stages for itself, not how they end, and misses some outputs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sppo.process.output import printable
from sppo_pipelines.board import Listener, Task
from sppo_pipelines.last_lines import last_lines
from sppo_pipelines.warm import Warm

KEPT = 100
"""Lines of a task that are kept, to tell why it failed."""
_AS_TEXT: dict[str, Any] = {
    **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
    **{"text": True, "errors": "backslashreplace", "bufsize": 1},
}
"""How a process is started whose lines are read as they come."""


class Exit(NamedTuple):
    """How the process of a task ended: its exit code, or less than 0 for a signal, and the last lines it printed."""

    task: Task
    code: int
    lines: list[str]


@contextlib.contextmanager
def tasks_told(listener: Listener, warm: Warm) -> Iterator[list[Exit]]:
    """Let the local runner's tasks be told of, and the runner itself be silent; keep how each that fails ends.

    It prints what a task prints, between lines on the task's name, inputs and outputs, from several threads.

    Args:
        listener: who is told.
        warm: what has imported already what the stages need.
    """
    from kfp.local import subprocess_task_handler as handler

    exits: list[Exit] = []

    def run(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        task, kept = task_of(full_command), deque[str](maxlen=KEPT)
        listener.begun(task)
        command, variables = warm.command(full_command), {**os.environ, **(env_vars or {})}
        with subprocess.Popen(command, **_AS_TEXT, env=variables) as process:
            assert process.stdout is not None
            for line in map(printable, process.stdout):
                if line.strip():
                    kept.append(line.rstrip())
                    listener.said(task, line.strip())
        code: int = process.returncode
        if code:
            exits.append(Exit(task, code, last_lines("\n".join(kept))))
        listener.ended(task, code)
        return code

    with _replaced(handler, "run_local_subprocess", run), _silent_runner():
        yield exits


def task_of(command: Sequence[str]) -> Task:
    """Which task a command of the local runner plays, by the arguments of kfp's executor."""
    given = dict(pairwise(command))
    values = json.loads(given["--executor_input"])["inputs"].get("parameterValues", {})
    share = (int(values["shard"]), int(values["shards"])) if "shard" in values else ()
    return Task(given["--function_to_execute"], int(values.get("iteration", 0)), *share)


@contextlib.contextmanager
def _silent_runner() -> Iterator[None]:
    """Take away what the local runner says and how it indents; what it warns of beside a failed task stays."""
    from kfp.local import logging_utils

    class Beside(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.module != "task_dispatcher":  # which tells that a task failed: its own words are better
                print(f"warning: {record.getMessage()}", flush=True)

    handler = Beside(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        with (
            _replaced(logging_utils, "local_logger_context", contextlib.nullcontext),
            _replaced(logging_utils, "indented_print", contextlib.nullcontext),
            _replaced(logging_utils, "print_horizontal_line", lambda: None),
        ):
            yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    kept = vars(module)[name]
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


@contextlib.contextmanager
def conditions_on_outputs() -> Iterator[None]:
    """Let the local runner find the output of a task in a condition, as a cluster does.

    kfp 2.17.3 looks for it among the parameters of the pipeline around the condition only, and takes what it does not
    find for false (`kfp/local/orchestrator/enhanced_dag_orchestrator.py`, `ConditionEvaluator`).
    """
    from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator

    kept = ConditionEvaluator._resolve_pipeline_channel

    def resolve_channel(channel: str, values: Any) -> Any:
        name = channel.removeprefix("pipelinechannel--")
        for dash in (place for place, letter in enumerate(name) if letter == "-"):
            with contextlib.suppress(ValueError):  # no such output
                return values.get_task_output(name[:dash], name[dash + 1 :])
        return kept(channel, values)

    with _replaced(ConditionEvaluator, "_resolve_pipeline_channel", staticmethod(resolve_channel)):
        yield
