"""What is shown of a local run: which stages are done, at work and to come, and how long they take."""

import io
import time

import pytest
from rich.console import Console
from sppo_pipelines import board as boards
from sppo_pipelines import view
from sppo_pipelines.board import Board, Task
from sppo_pipelines.view import Lines, LiveTable, Verbatim, shown, telling

from sppo.process.dropped import Work

OF_ITERATION = ("generate", "rank", "train", "evaluate")


@pytest.fixture
def clock(monkeypatch):
    """Time that a test lets pass."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(boards, "time", clock)
    monkeypatch.setattr(view, "time", clock)
    return clock


def play(listener, clock, iteration, **seconds):
    """Play stages of an iteration, each as long as is said."""
    for stage, lasts in seconds.items():
        task = Task(stage, iteration)
        listener.begun(task)
        listener.said(task, f"{stage} is at work")
        clock.now += lasts
        listener.ended(task, 0)


def drawn(table, width=100):
    screen = Console(file=io.StringIO(), width=width, force_terminal=False)
    screen.print(table)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def test_a_stage_takes_what_it_took_in_the_iteration_before(clock):
    board = Board(3, frozenset(), {})
    assert board.expected(Work("train", 1)) is None and board.left() is None
    play(board, clock, 1, generate=60, rank=5, train=100, evaluate=30)
    assert board.expected(Work("train", 2)) == board.expected(Work("train", 3)) == 100
    assert board.left() == 2 * 195
    play(board, clock, 2, generate=80, rank=5, train=90)
    board.begun(Task("evaluate", 2))
    clock.now += 10
    assert (board.expected(Work("generate", 3)), board.expected(Work("train", 3))) == (80, 90)
    assert board.left() == 20 + 80 + 5 + 90 + 30
    clock.now += 100
    assert board.left() == 80 + 5 + 90 + 30, "what takes longer than it should is no debt"


def test_what_was_there_is_no_measure(clock):
    board = Board(2, frozenset(Work(stage, 1) for stage in OF_ITERATION), {Work("train", 1): 100.0})
    play(board, clock, 1, generate=1, rank=1, train=1, evaluate=1)
    assert board.expected(Work("train", 2)) == 100 and board.expected(Work("rank", 2)) is None
    assert board.left() is None
    assert board.state(Work("train", 1)) == "there"


def test_a_stage_is_done_with_its_last_shard(clock):
    board = Board(1, frozenset(), {})
    shards = [Task("generate", 1, shard, 2) for shard in range(2)]
    work = Work("generate", 1)
    for task in shards:
        board.begun(task)
        clock.now += 5
    board.ended(shards[1], 0)
    assert (board.state(work), board.elapsed(work)) == ("now", 10)
    assert list(board.at_work()) == [(shards[0], "begins")]
    clock.now += 5
    board.ended(shards[0], 0)
    clock.now += 100
    assert (board.state(work), board.elapsed(work)) == ("done", 15)


def test_a_stage_of_which_a_shard_failed_has_failed(clock):
    board = Board(1, frozenset(), {})
    for shard, code in enumerate((0, 3)):
        board.begun(Task("rank", 1, shard, 2))
        board.ended(Task("rank", 1, shard, 2), code)
    assert board.state(Work("rank", 1)) == "failed"


def test_iterations_that_the_gate_kept_from_being_played_are_not_to_come(clock):
    board = Board(2, frozenset(), {})
    play(board, clock, 1, **dict.fromkeys(OF_ITERATION, 1))
    assert board.state(Work("generate", 2)) == "to come"
    board.begun(Task("keep", 1))
    board.begun(Task("publish"))
    assert board.state(Work("generate", 2)) == "not played" and board.left() is None


def test_the_table_has_a_row_an_iteration_and_the_last_figures(clock):
    board = Board(2, frozenset([Work("prepare")]), {})
    figures = {}
    table = LiveTable(board, "SmolLM2 in runs/x", lambda t: figures.get(t, ()))
    play(table, clock, 1, generate=70, rank=5, train=370)
    figures[1] = ["0.602 [0.513, 0.691]", "P 0.546", "instructions 0.438 → 0.512"]
    play(table, clock, 1, evaluate=30)
    for shard in range(2):
        table.begun(Task("generate", 2, shard, 2))
        table.said(Task("generate", 2, shard, 2), f"chunk {shard}")
    clock.now += 35
    assert drawn(table, 110) == [
        "SmolLM2 in runs/x: 0:08:30, about 0:07:20 to the end of the last iteration",
        "",
        "             generate           rank           train          evaluate       win rate over base",
        "prepare      there",
        "iteration 1  done 1:10          done 0:05      done 6:10      done 0:30      0.602 [0.513, 0.691]",
        f"{'P 0.546':>84}",
        f"{'instructions 0.438 → 0.512':>103}",
        "iteration 2  now 0:35 of ~1:10  to come ~0:05  to come ~6:10  to come ~0:30",
        "             0 of 2 shards",
        "publish      to come",
        "",
        "iteration 2, generate, shard 1: chunk 0",
        "iteration 2, generate, shard 2: chunk 1",
    ]
    assert all(len(line) <= 72 for line in drawn(table, 72))


def test_elsewhere_a_stage_that_ends_is_a_line(clock, capsys):
    lines = Lines(Board(1, frozenset([Work("generate", 1)]), {}), lambda t: ["0.602 [0.513, 0.691]", "P 0.546"])
    play(lines, clock, 1, generate=1, rank=5, train=370, evaluate=30)
    lines.begun(Task("keep", 1))
    lines.ended(Task("keep", 1), 0)
    assert [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "iteration 1 of 1: rank done in 0:00:05",
        "iteration 1 of 1: train done in 0:06:10",
        "iteration 1 of 1: evaluate done in 0:00:30; win rate over the base 0.602 [0.513, 0.691], P 0.546",
    ]


def test_what_shows_nothing_of_its_own_is_told_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(view, "SECONDS", 0.05)
    with telling("prepare"):
        time.sleep(0.3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert all(line.partition(" ")[2] == "prepare: 0:00:00 so far" for line in lines)


def test_one_line_says_where_the_run_stands(clock):
    lines = Lines(Board(2, frozenset(), {Work(stage, 1): 60.0 for stage in OF_ITERATION}), lambda t: [])
    assert lines.standing() == "between two stages, 0:00:00 so far"
    for shard in range(2):
        lines.begun(Task("generate", 2, shard, 2))
        lines.said(Task("generate", 2, shard, 2), f"chunk {shard}")
    lines.ended(Task("generate", 2, 1, 2), 0)
    clock.now += 15
    assert lines.standing() == "iteration 2 of 2: generate 0:00:15 of about 0:01:00, 1 of 2 shards done: chunk 0"


def test_elsewhere_a_silent_stage_is_told_of_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(view, "SECONDS", 0.2)
    board = Board(1, frozenset(), {})
    lines = Lines(board, lambda t: [])
    with lines.ticking():
        lines.begun(Task("train", 1))
        time.sleep(1.1)
    told = capsys.readouterr().out.splitlines()
    assert 3 <= len(told) <= 6 and all("iteration 1 of 1: train 0:00:0" in line for line in told)
    time.sleep(0.5)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("said", ["warning: MLflow is down", "error: the disk is full"])
@pytest.mark.parametrize("kind", [Lines, Verbatim])
def test_a_warning_or_an_error_is_shown_at_once(kind, said, capsys):
    board = Board(1, frozenset(), {})
    listener = kind(board) if kind is Verbatim else kind(board, lambda t: [])
    listener.said(Task("train", 1), said)
    assert capsys.readouterr().out.endswith(f"iteration 1, train: {said}\n")


def test_every_line_is_shown_where_that_is_wanted(capsys):
    with shown(Board(1, frozenset(), {}), "a model", lambda t: "", verbose=True) as listener:
        listener.said(Task("generate", 1, 0, 2), "loading")
        listener.said(Task("publish"), "published")
    assert [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "iteration 1, generate, shard 1: loading",
        "publish: published",
    ]


def test_where_there_is_no_terminal_nothing_is_drawn_anew(capsys):
    with shown(Board(1, frozenset(), {}), "a model", lambda t: "", verbose=False) as listener:
        assert isinstance(listener, Lines)
    assert capsys.readouterr().out == ""
