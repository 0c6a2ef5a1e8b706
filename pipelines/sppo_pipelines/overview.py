"""What `sppo --help` shows: the commands in groups, and examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Commands = Mapping[str, Callable[..., None]]

DESCRIPTION = "Self-Play Preference Optimization: align a chat model to human preference."
EXAMPLES = {
    "sppo run": "the default run: a small model, no GPU, no network",
    "sppo run base_model=hf://ORG/MODEL preference_model=hf://ORG/REWARD-MODEL": "your own model and judge",
    "sppo run output_uri=runs/mine train.eta=500 --plan-only": "what another value would do anew",
    "sppo compare runs/default runs/mine --html compared.html": "which of two runs is better",
    "sppo submit --host https://kubeflow.example.org/pipeline output_uri=s3://bucket/run": "the same on a cluster",
    "sppo run --help": "everything that a command takes",
}
"""Command lines, and what each is for."""


def print_overview(groups: Mapping[str, Commands]) -> None:
    """Print every command with the first sentence of its description, and some whole command lines."""
    screen = Console()
    screen.print(Text.assemble(("usage: ", "bold"), "sppo COMMAND …\n\n", DESCRIPTION))
    width = max(len(name) for commands in groups.values() for name in commands)
    for title, commands in groups.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=width, style="bold")
        for name, command in commands.items():
            table.add_row(name, Text((inspect.getdoc(command) or "").partition("\n\n")[0].replace("\n", " ")))
        screen.print(Text(f"\n{title}", style="bold underline"), Padding(table, (0, 0, 0, 2)))
    screen.print(Text("\nExamples", style="bold underline"))
    for line, purpose in EXAMPLES.items():
        screen.print(Text(f"  # {purpose}", style="dim"), Text(f"  {line}"), soft_wrap=True, sep="\n")
