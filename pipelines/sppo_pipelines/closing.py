"""What a local run says at its end: the verdict, how long it took, and what to do next."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from sppo.config.run import PreparedConfig, RunConfig
from sppo.errors import GateFailedError
from sppo.preparing.recorded import configuration, current
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.lineage import Lineage
from sppo.store.local import LocalStore
from sppo.store.opening import open_store
from sppo_pipelines.screen import Screen, duration

if TYPE_CHECKING:
    from sppo.reporting.report import RunReport
    from sppo.reporting.report.trust import Colour

WIDE = 150
"""Columns that the table takes on one line each; a log has them, whatever a terminal would."""
FEW = 3
"""Iterations whose intervals fit beside each other into a hundred columns."""
STYLES: dict[Colour, str] = {"passed": "green", "caution": "yellow", "failed": "red"}
"""How a verdict of each colour is written."""
MLFLOW_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` shows itself."""


def close(config: PreparedConfig, seconds: float) -> None:
    """Say how a run ended.

    Args:
        config: the run's.
        seconds: how long it was played.

    Raises:
        GateFailedError: if the best model does not meet the gate.
    """
    from sppo.reporting.report.verdict import gate_sentence

    store = open_store(config.output_uri)
    report, lineage = print_table(config), Lineage(config, store)
    print(f"\nIt took {duration(seconds)}. The report: {store.uri}/{lineage.report_key}/{keys.REPORT_FILE}\n")
    for title, command in _next(config, store):
        print(f"  {title:<18}{command}")
    if not report.passed:
        raise GateFailedError(f"{gate_sentence(report)} The model and the report are there all the same.")


def print_table(config: RunConfig) -> RunReport:
    """Print a run's table, its verdict and what speaks for and against that; give the report that it is taken from.

    On a terminal that is not wide, a few iterations stand beside each other, and sentences go on in the next line.
    """
    from sppo.reporting.report import SUMMARY_COLUMNS, checks, collect, colour, headline, summary_rows
    from sppo.reporting.report.verdict import decision_sentence, gate_sentence

    report, screen = collect(config, open_store(config.output_uri)), Screen()
    rows: list[tuple[str, ...]] = [SUMMARY_COLUMNS, *summary_rows(report)]
    narrow = screen.is_terminal and screen.width < WIDE
    head, *below = zip(*rows, strict=True) if narrow and len(rows) - 1 <= FEW else rows
    table = Table(*(Column(name, no_wrap=not narrow) for name in head), box=None if narrow else SIMPLE)
    for row in below:
        table.add_row(*row)
    verdict = Text(headline(report), style=f"bold {STYLES[colour(report)]}")
    why = Text(f"{gate_sentence(report)} {decision_sentence(report.iterations[-1])}")
    reasons = Table.grid(padding=(0, 2))
    for check in checks(report):
        word = Text("  pass", style="green") if check.trusted else Text("  caution", style="yellow")
        reasons.add_row(word, Text(check.said))
    if screen.is_terminal:
        screen.print(table, "", verdict, why, reasons, sep="\n")
    else:
        log = Console(width=max(screen.width, WIDE), soft_wrap=True)
        log.print(table, verdict, why, sep="\n")
        for check in checks(report):
            log.print(Text(f"  {'pass   ' if check.trusted else 'caution'}  {check.said}"))
    return report


def _next(config: PreparedConfig, store: Store) -> Iterator[tuple[str, str]]:
    """Three things to do with a run: a word for each, and the place or the command."""
    yield "use the model", f"{store.uri}/{Lineage(config, store).published_key}; its README.md shows how"
    place, other = shlex.quote(config.output_uri), _another(config, store)
    yield "compare", f"{_program('sppo')} compare {shlex.quote(other) if other else 'OTHER-RUN'} {place}"
    for number, line in enumerate(open_mlflow(config, store)):
        yield "then open" if number else "open MLflow", line


def _another(config: PreparedConfig, store: Store) -> str:
    """A finished run beside this one that compares with it, the one that was played last; empty where there is none."""
    if not isinstance(store, LocalStore):
        return ""
    found = [each for each in store.root.parent.iterdir() if each != store.root and (each / keys.CURRENT).is_file()]
    for folder in sorted(found, key=lambda each: (each / keys.CURRENT).stat().st_mtime, reverse=True):
        other = LocalStore(folder)
        played = configuration(other, current(other))
        if played is None or _measured(played, other) != _measured(config, store):
            continue
        if other.manifest(Lineage(played, other).report_key) is not None:
            return _short(folder)
    return ""


def _measured(config: PreparedConfig, store: Store) -> list[str | None]:
    """Digests of what two runs must share to be compared: base model, judge and held-out prompts."""
    evaluated = store.manifest(Lineage(config, store).evaluation_key(1))
    return [evaluated.inputs.get(name) if evaluated else None for name in ("base", "judge", "held_out")]


def open_mlflow(config: RunConfig, store: Store) -> list[str]:
    """How to look at a run's charts in MLflow: an address, after a command where no server is running for it."""
    from sppo.reporting.tracking import tracking_uri, without_password
    from sppo.reporting.tracking.database import database_path
    from sppo.reporting.tracking.identity import known

    uri = tracking_uri(store)
    if uri is None:
        return ["set MLFLOW_TRACKING_URI and run `sppo resume` to send the figures there"]
    place, server = known(config, store), without_password(uri)
    if place.server != server:
        return [f"{server} has not got the figures; `sppo resume {shlex.quote(config.output_uri)}` sends them"]
    path = database_path(uri)
    if path is None:
        return [f"{server.rstrip('/')}/{place.charts}"]
    address = f"sqlite:///{_short(path)}" if uri == f"sqlite:///{path}" else uri
    return [f"{_program('mlflow')} ui --backend-store-uri {shlex.quote(address)}", f"{MLFLOW_UI}/{place.charts}"]


def _program(name: str) -> str:
    """How a program of this environment is called from here."""
    path = Path(sys.executable).with_name(name)
    return name if shutil.which(name) == str(path) else shlex.quote(_short(path))


def _short(path: Path) -> str:
    """A path, from the working directory where it is below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
