"""What is shown of a local run while it is played: one live table on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sppo.process.dropped import Work
from sppo.process.plan import OF_AN_ITERATION
from sppo.progress import beside
from sppo_pipelines.board import Board, Listener, Task
from sppo_pipelines.screen import Screen, duration

SECONDS = 30.0
"""Between two lines, where there is no terminal."""
ALWAYS = ("warning: ", "error: ")
"""How lines of stages begin that are shown wherever they are said; of several failed shards the end names one."""
_STYLES = {"done": "green", "now": "yellow", "failed": "red", "there": "dim", "to come": "dim", "not played": "dim"}

Figures = Callable[[int], Sequence[str]]
"""An iteration's figures over the base, the win rate first, each in a few words; none until it is evaluated."""


@contextmanager
def shown(board: Board, title: str, figures: Figures, verbose: bool) -> Iterator[Listener]:
    """Show a run while the block plays it.

    Args:
        board: where it stands.
        title: what is aligned, and where that is written.
        figures: of the iterations.
        verbose: show every line that the stages print instead.

    Yields:
        Who is to be told what its tasks do.
    """
    screen = Screen()
    if verbose:
        yield Verbatim(board)
    elif screen.is_terminal:
        table = LiveTable(board, title, figures)
        with Live(table, console=screen, refresh_per_second=4) as live:
            table.live = live
            yield table
    else:
        lines = Lines(board, figures)
        with lines.ticking():
            yield lines


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Say every `SECONDS` how long the block takes, which shows nothing of its own."""
    start, ended = time.monotonic(), threading.Event()

    def tick() -> None:
        while not ended.wait(SECONDS):
            _print_with_time(f"{what}: {duration(time.monotonic() - start)} so far")

    with beside(tick, ended):
        yield


class LiveTable:
    """A row an iteration and a column a stage, and below what is at work; drawn anew by `rich.live.Live`."""

    live: Live

    def __init__(self, board: Board, title: str, figures: Figures) -> None:
        self.board, self.title, self.figures = board, title, figures
        self.last: dict[int, Sequence[str]] = {t: figures(t) for t in range(1, board.iterations + 1)}

    def begun(self, task: Task) -> None:
        """See `Listener`."""
        self.board.begun(task)

    def said(self, task: Task, line: str) -> None:
        """See `Listener`; a warning or an error stays above the table."""
        self.board.said(task, line)
        if line.startswith(ALWAYS):
            self.live.console.print(Text(f"{task.title}: {line}", style="yellow"))

    def ended(self, task: Task, code: int) -> None:
        """See `Listener`."""
        self.board.ended(task, code)
        if task.iteration:
            self.last[task.iteration] = self.figures(task.iteration)

    def __rich__(self) -> RenderableType:
        with self.board.lock:
            return Group(self._head(), "", self._iterations(), *self._at_work())

    def _head(self) -> Text:
        head = Text(f"{self.title}: {duration(time.monotonic() - self.board.start)}", style="bold")
        left = self.board.left()
        if left is not None:
            head.append(f", about {duration(left)} to the end of the last iteration", style="not bold")
        return head

    def _iterations(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("", *OF_AN_ITERATION):
            table.add_column(name, header_style="dim")
        table.add_column("win rate over base", header_style="dim", no_wrap=True)
        table.add_row("prepare", self._cell(Work("prepare")))
        for t in range(1, self.board.iterations + 1):
            cells = (self._cell(Work(stage, t)) for stage in OF_AN_ITERATION)
            table.add_row(f"iteration {t}", *cells, "\n".join(self.last[t]))
        for work in self.board.stages:
            if work.stage in {"publish", "bench"}:
                table.add_row(work.stage, self._cell(work))
        return table

    def _cell(self, work: Work) -> Text:
        board, stage, state = self.board, self.board.stages[work], self.board.state(work)
        words = Text(state, style=_STYLES[state])
        if state in {"now", "done", "failed"}:
            words.append(f" {_short(board.elapsed(work))}")
        expected = board.expected(work)
        if expected is not None and state in {"now", "to come"}:
            words.append(f"{' of' if state == 'now' else ''} ~{_short(expected)}", style="dim")
        if state == "now" and stage.shards > 1:
            words.append(f"\n{stage.done} of {stage.shards} shards", style="dim")
        return words

    def _at_work(self) -> Iterator[Text]:
        """The last line of each task that is at work."""
        for number, (task, line) in enumerate(self.board.at_work()):
            gap = "" if number else "\n"
            yield Text.assemble((f"{gap}{task.title}: ", "dim"), line, overflow="ellipsis", no_wrap=True)


class Lines:
    """A line for each stage that ends, and one when nothing was printed for a while."""

    def __init__(self, board: Board, figures: Figures) -> None:
        self.board, self.figures = board, figures
        self.printed = time.monotonic()

    def begun(self, task: Task) -> None:
        """See `Listener`."""
        self.board.begun(task)

    def said(self, task: Task, line: str) -> None:
        """See `Listener`."""
        self.board.said(task, line)
        if line.startswith(ALWAYS):
            self._print(f"{task.title}: {line}")

    def ended(self, task: Task, code: int) -> None:
        """See `Listener`."""
        self.board.ended(task, code)
        work = task.work
        if work in self.board.stages and self.board.state(work) == "done":
            figures = self.figures(task.iteration) if work.stage == "evaluate" else ()
            told = f"; win rate over the base {', '.join(figures)}" if figures else ""
            self._print(f"{self._stage(work)} done in {duration(self.board.elapsed(work))}{told}")

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Say where the run stands whenever nothing was printed for `SECONDS`, until the block ends."""
        ended = threading.Event()

        def tick() -> None:
            while not ended.wait(max(0.0, self.printed + SECONDS - time.monotonic())):
                if time.monotonic() >= self.printed + SECONDS:
                    self._print(self.standing())

        with beside(tick, ended):
            yield

    def standing(self) -> str:
        """Where the run stands, in one line."""
        with self.board.lock:
            tasks = list(self.board.at_work())
            if not tasks:
                return f"between two stages, {duration(time.monotonic() - self.board.start)} so far"
            task, said = tasks[-1]
            work = task.work
            stage, expected, left = self.board.stages[work], self.board.expected(work), self.board.left()
            of = f" of about {duration(expected)}" if expected is not None else ""
            rest = f", about {duration(left)} to the end of the last iteration" if left is not None else ""
            shards = f", {stage.done} of {stage.shards} shards done" if stage.shards > 1 else ""
            return f"{self._stage(work)} {duration(self.board.elapsed(work))}{of}{shards}{rest}: {said}"

    def _stage(self, work: Work) -> str:
        return f"iteration {work.iteration} of {self.board.iterations}: {work.stage}" if work.iteration else work.stage

    def _print(self, line: str) -> None:
        self.printed = time.monotonic()
        _print_with_time(line)


class Verbatim:
    """Every line that the stages print, after its time and its stage."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def begun(self, task: Task) -> None:
        """See `Listener`."""
        self.board.begun(task)

    def said(self, task: Task, line: str) -> None:
        """See `Listener`."""
        _print_with_time(f"{task.title}: {line}")

    def ended(self, task: Task, code: int) -> None:
        """See `Listener`."""
        self.board.ended(task, code)


def _print_with_time(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)


def _short(seconds: float) -> str:
    """A time in few letters, such as 0:02 or 1:02:03."""
    short = duration(seconds).removeprefix("0:")
    return short[1:] if short.startswith("0") else short
