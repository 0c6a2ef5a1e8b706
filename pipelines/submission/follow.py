"""Following a run until it ends: a live tree on a terminal, one line for each change elsewhere."""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from pipelines.submission import progress
from pipelines.submission.client import Client, Json

INTERVAL = 10.0
"""Seconds between looks at the run."""
PATIENCE = 30
"""How often a look is tried: about ten minutes without the server."""
LATE = 12
"""Looks that a run is given to tell its gate after its end, or to leave the state that a retry should end."""

_STYLES = {"SUCCEEDED": "green", "RUNNING": "yellow", "FAILED": "red", "CANCELED": "red"}


def look(client: Client, run_id: str, attempts: int = 0) -> Json:
    """The run as it is now."""
    return client.get(f"runs/{run_id}", attempts=attempts)


def follow(client: Client, run_id: str, console: Console, before: Json | None = None) -> Json:
    """Wait until a run has ended and show its stages meanwhile.

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
    left = LATE
    live = Live(console=console, refresh_per_second=2) if console.is_terminal else nullcontext()
    with live as screen:
        while True:
            run = look(client, run_id, PATIENCE)
            if screen is not None:
                screen.update(_tree(run))
            else:
                _print_changes(run, shown, console)
            state = run.get("state", "")
            if state in progress.ENDED:
                told = state != "SUCCEEDED" or progress.gate(run) is not None
                stale = before is not None and run.get("finished_at") == before.get("finished_at")
                if (told and not stale) or left == 0:
                    return run
                left -= 1
            time.sleep(INTERVAL)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _label(stage: progress.Stage) -> str:
    shards = f" ({stage.done} of {len(stage.tasks)} shards)" if len(stage.tasks) > 1 else ""
    return f"{stage.state.lower()}{shards}"


def _tree(run: Json) -> Tree:
    state = run.get("state", "")
    tree = Tree(Text(f"{run.get('display_name', 'run')}: {state.lower()}", style=_STYLES.get(state, "")))
    branches = {0: tree}
    for stage in progress.stages(run):
        if stage.iteration not in branches:
            branches[stage.iteration] = tree.add(f"self-play {stage.iteration}")
        text = f"{stage.name}: {_label(stage)}, {duration(stage.seconds)}"
        branches[stage.iteration].add(Text(text, style=_STYLES.get(stage.state, "")))
    return tree


def _print_changes(run: Json, shown: dict[str, str], console: Console) -> None:
    lines = {stage.title: _label(stage) for stage in progress.stages(run)}
    lines["run"] = run.get("state", "").lower()
    for title, label in lines.items():
        if shown.get(title) != label:
            shown[title] = label
            console.print(f"{datetime.now():%H:%M:%S} {title}: {label}", markup=False, highlight=False, soft_wrap=True)
