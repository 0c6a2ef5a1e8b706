"""Stages under the local runner: who is told what they do, what it says itself, and why one of them failed."""

import json
import logging
import sys

import pytest
from kfp import dsl, local
from sppo_pipelines.board import Task
from sppo_pipelines.kfp_local import KEPT, Exit, task_of, tasks_told
from sppo_pipelines.local import _failure
from sppo_pipelines.warm import Warm

from sppo.errors import ConfigError, InfrastructureError, RunFailedError


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.told = []

    def begun(self, task):
        self.told.append(("begun", task))

    def said(self, task, line):
        self.told.append((line, task))

    def ended(self, task, code):
        self.told.append((code, task))

    def lines(self):
        return [what for what, _ in self.told[1:-1]]


def command(program: str, stage: str = "generate", **values: int) -> list[str]:
    """A command of the local runner whose process is a program."""
    told = json.dumps({"inputs": {"parameterValues": values}})
    return [sys.executable, "-c", program, "--executor_input", told, "--function_to_execute", stage]


def played(program: str, tmp_path, stage: str = "generate", **values: int) -> tuple[Heard, list[Exit]]:
    """What is told of a stage whose process is a program, and how it ended."""
    from kfp.local import subprocess_task_handler as handler

    heard = Heard()
    with tasks_told(heard, Warm(tmp_path)) as exits:
        handler.run_local_subprocess(command(program, stage, **values))
    return heard, exits


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ({"iteration": 2, "shard": 1, "shards": 4}, Task("generate", 2, 1, 4)),
        ({"iteration": 2.0, "shard": 0.0, "shards": 1.0}, Task("generate", 2, 0, 1)),
        ({"iteration": 3}, Task("generate", 3)),
        ({"shards": 2}, Task("generate")),
    ],
)
def test_a_task_is_known_by_what_the_executor_is_given(values, task):
    """Of prepare, shards is a setting; numbers come as JSON has them."""
    assert task_of(command("", **values)) == task


def test_what_a_stage_does_is_told_line_by_line(tmp_path):
    heard, exits = played("print('loading'); print(); print('step 1 of 2')", tmp_path, iteration=1)
    task = Task("generate", 1)
    assert heard.told == [("begun", task), ("loading", task), ("step 1 of 2", task), (0, task)]
    assert exits == []


def test_colours_are_removed_and_nothing_steers_the_terminal(tmp_path):
    heard, _ = played(r"print('\x1b[0;36m(EngineCore pid=1)\x1b[0;0m \x1b[91mfailed\x1b[0m \x1b[2J')", tmp_path)
    assert heard.lines() == ["(EngineCore pid=1) failed \\x1b[2J"]


def test_bytes_that_are_no_text_stop_nobody(tmp_path):
    heard, exits = played(r"import sys; sys.stdout.buffer.write(b'a\xffb\n')", tmp_path)
    assert (heard.lines(), exits) == (["a\\xffb"], [])


def test_the_runner_is_silent_but_for_what_goes_wrong_beside_a_task(tmp_path, capsys, monkeypatch):
    @dsl.component
    def generate(iteration: int) -> str:
        print("said by the stage")
        return "text"

    @dsl.pipeline
    def inner(iteration: int) -> str:
        return generate(iteration=iteration).output

    @dsl.pipeline
    def pipeline():
        inner(iteration=1)

    heard = Heard()
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path), raise_on_error=True)
    handlers = logging.getLogger().handlers[:]
    with tasks_told(heard, Warm(tmp_path)) as exits:
        pipeline()
        logging.getLogger("any").warning("odd")
    assert capsys.readouterr().out == "warning: odd\n"
    assert heard.told == [
        *(("begun", Task("generate", 1)), ("said by the stage", Task("generate", 1)), (0, Task("generate", 1))),
    ]
    assert exits == [] and logging.getLogger().handlers == handlers


def test_the_end_of_a_traceback_stands_under_the_message(tmp_path):
    """As torch prints it once vLLM has begun (torch/distributed/distributed_c10d.py, its excepthook)."""
    traceback = ["[rank0]: Traceback (most recent call last):", *(f"[rank0]:   line {n}" for n in range(12))]
    traceback.append("[rank0]: ValueError: the reason")
    colored = "".join(f"\x1b[31m{line}\x1b[0m\n" for line in traceback)
    _, exits = played(f"print({colored!r}, end=''); raise SystemExit(1)", tmp_path, iteration=2)
    failure = _failure("the pipeline failed", exits, "runs/x")
    head = "the run failed in iteration 2, generate: exit code 1; `sppo resume runs/x` goes on from there"
    assert str(failure).splitlines() == [head, *(f"  {line}" for line in traceback[-10:])]
    assert type(failure) is RunFailedError


def test_the_place_of_a_mistake_is_told_however_much_was_said_before(tmp_path):
    _, exits = played(f"for n in range({KEPT * 2}): print(n)\n1 / 0", tmp_path)
    failure = str(_failure("the pipeline failed", exits, "runs/x"))
    assert 'File "<string>", line 2, in <module>' in failure and failure.endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(("code", "kind"), [(2, ConfigError), (3, InfrastructureError), (4, RunFailedError)])
def test_an_error_line_is_the_message_and_its_exit_code_the_runs(tmp_path, code, kind):
    _, exits = played(f"print('chunk 1'); print('error: no room'); raise SystemExit({code})", tmp_path, "prepare")
    failure = _failure("the pipeline failed", exits, "runs/x")
    assert str(failure).startswith("the run failed in prepare: no room; ") and "\n" not in str(failure)
    assert (type(failure), failure.exit_code) == (kind, code)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "killed, as a machine does that is out of memory"),
        (137, "killed, as a machine does that is out of memory"),
        (-11, "SIGSEGV"),
        (1, "exit code 1"),
    ],
)
def test_a_stage_that_says_nothing_is_told_by_its_end(code, words):
    failure = _failure("the pipeline failed", [Exit(Task("train", 1), code, [])], "runs/x")
    assert str(failure) == f"the run failed in iteration 1, train: {words}; `sppo resume runs/x` goes on from there"


def test_a_failure_of_no_stage_is_the_runners_own():
    failure = _failure("the \x1b[91mreason\x1b[0m", [], "runs/x")
    assert str(failure) == "the run failed: the reason; `sppo resume runs/x` goes on from there"
