"""What kfp's local runner lacks (2.17.3): it does not tell how a stage ended, nor find every output in a condition."""

from __future__ import annotations

import builtins
import contextlib
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from sppo_pipelines.console import StageLines
from sppo_pipelines.last_lines import last_lines


class Exit(NamedTuple):
    """How the process of a stage ended: its exit code, or less than 0 for a signal, and the last lines it printed."""

    code: int
    lines: list[str]


@contextlib.contextmanager
def exits_kept(lines: StageLines) -> Iterator[list[Exit]]:
    """Keep how each stage that fails ends: the local runner says only that it has failed.

    Args:
        lines: what the stages print; each is read by a thread of its own.
    """
    from kfp.local import subprocess_task_handler as handler

    kept, exits = handler.run_local_subprocess, list[Exit]()

    def run(*arguments: Any, **named: Any) -> int:
        lines.begin()
        code: int = kept(*arguments, **named)
        if code:
            exits.append(Exit(code, last_lines(textwrap.dedent(lines.said()))))
        return code

    handler.run_local_subprocess = run
    try:
        yield exits
    finally:
        handler.run_local_subprocess = kept


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

    ConditionEvaluator._resolve_pipeline_channel = staticmethod(resolve_channel)
    try:
        yield
    finally:
        ConditionEvaluator._resolve_pipeline_channel = staticmethod(kept)


@contextlib.contextmanager
def print_kept() -> Iterator[None]:
    """Give `print` back: the local runner indents it from several threads, and does not always undo that."""
    kept = builtins.print
    try:
        yield
    finally:
        builtins.print = kept
