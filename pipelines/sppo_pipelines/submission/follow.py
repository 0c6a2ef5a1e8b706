"""Following a run until it ends: a live tree on a terminal, one line for each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from sppo_pipelines.screen import duration
from sppo_pipelines.submission import progress
from sppo_pipelines.submission import run as runs
from sppo_pipelines.submission.client import Client
from sppo_pipelines.submission.run import Run, look
from sppo_pipelines.submission.waiting import Waiting

LATE = 12
"""Looks that a run is given to leave the state that a retry should end."""

_STYLES = {"SUCCEEDED": "green", "RUNNING": "yellow", "PENDING": "yellow", "FAILED": "red", "CANCELED": "red"}


def follow(client: Client, run_id: str, console: Console, before: Run | None = None) -> Run:
    """Wait until a run has ended and show its stages meanwhile, and why pods do not start.

    Args:
        client: the server.
        run_id: the run.
        console: where to show it.
        before: the run as it was before it was retried; that end does not count.

    Returns:
        The run as it ended.

    Raises:
        InfrastructureError: if the server cannot be asked for long, or refuses; the run goes on.
    """
    shown: dict[str, str] = {}
    waiting = Waiting()
    left = LATE
    live = Live(console=console, refresh_per_second=2) if console.is_terminal else nullcontext()
    with live as screen:
        while True:
            run = look(client, run_id, runs.PATIENCE)
            ended = run.state in progress.ENDED
            held = {} if ended else waiting.reasons(run.workflow)
            if screen is not None:
                screen.update(_tree(run, held))
            else:
                _print_changes(run, held, shown, console)
            if ended:
                if before is None or run.finished_at != before.finished_at or left == 0:
                    return run
                left -= 1
            time.sleep(runs.INTERVAL)


def _label(stage: progress.Stage) -> str:
    shards = f" ({stage.done} of {len(stage.tasks)} shards)" if len(stage.tasks) > 1 else ""
    return f"{stage.state.lower()}{shards}"


def _tree(run: Run, held: Mapping[str, str]) -> Tree:
    title = f"{run.name or 'run'}: {run.state.lower()}" if run.state else run.name or "run"
    tree = Tree(Text(title, style=_STYLES.get(run.state, "")))
    branches = {0: tree}
    for stage in progress.stages(run.workflow):
        if stage.iteration not in branches:
            branches[stage.iteration] = tree.add(f"self-play {stage.iteration}")
        text = f"{stage.name}: {_label(stage)}, {duration(stage.seconds)}"
        branches[stage.iteration].add(Text(text, style=_STYLES.get(stage.state, "")))
    for what, why in held.items():
        tree.add(Text(f"{what} waits: {why}", style=_STYLES["PENDING"]))
    return tree


def _print_changes(run: Run, held: Mapping[str, str], shown: dict[str, str], console: Console) -> None:
    lines = {stage.title: _label(stage) for stage in progress.stages(run.workflow)}
    lines |= {f"{what} waits": why for what, why in held.items()}
    if run.state:
        lines["run"] = run.state.lower()
    for title in shown.keys() - lines.keys():  # what waits again is told again
        del shown[title]
    for title, label in lines.items():
        if shown.get(title) != label:
            shown[title] = label
            console.print(f"{datetime.now():%H:%M:%S} {title}: {label}", markup=False, highlight=False, soft_wrap=True)
