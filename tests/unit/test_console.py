"""What a local run shows of its stages, and what it keeps to say why one of them failed."""

import io
import json
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp.dsl import Metrics
from kfp.local.logging_utils import make_log_lines_for_outputs
from sppo_pipelines import local
from sppo_pipelines.console import StageLines
from sppo_pipelines.kfp_local import Exit, exits_kept

from sppo.errors import ConfigError, InfrastructureError, RunFailedError

EXECUTOR = "[KFP Executor 2026-01-01 12:30:40,123 INFO]: "
VALUES = {"shards": [1, 2], "text": "} {", "none": {}, "list": [], "number": -1.5, "flag": True}
INPUTS = json.dumps({"inputs": {"parameterValues": VALUES}}, indent=4)
OUTPUTS = {"metrics": Metrics(name="metrics", uri="/tmp/x", metadata={"a": 1}), "list": [1, {"b": 2}], "text": "x\n[y"}
NOISE = [
    "",
    f"    {EXECUTOR}Looking for component `train` in --component_module_path `/tmp/x.py`",
    f"{EXECUTOR}Got executor_input:\n{INPUTS}".replace("\n", "\n    "),
    f"    {EXECUTOR}HTTP Request: GET http://127.0.0.1",
    "12:30:45.123 - INFO - Task \x1b[96m'train'\x1b[0m outputs:\n" + "\n".join(make_log_lines_for_outputs(OUTPUTS)),
    "-" * 40,
]
WANTED = [
    "step 3 of 8: loss 1042.1, |log-ratio| 0.10",
    "12:30:45.123 - INFO - Task 'train' finished with status SUCCESS",
    "error: prompts: /x.jsonl: no such file",
    "[rank0]: Traceback (most recent call last):",
    '[rank0]:   File "x.py", line 1',
    "[[5]]",
    '{"a": 1}',
    '"quoted"',
    "0.5,",
    "[KFP Executor 2026-01-01 12:30:40,123 ERROR]: a library has failed",
    "win rate over base: 0.550 [0.500, 0.600]",
]


def passed(text: str, sizes: list[int] | None = None) -> str:
    stream = io.StringIO()
    lines = StageLines(stream)
    start = 0
    for size in [*(sizes or []), len(text)]:
        assert lines.write(text[start : start + size]) == len(text[start : start + size])
        start += size
    lines.flush()
    return stream.getvalue()


@pytest.mark.parametrize("piece", NOISE)
def test_what_repeats_a_tasks_inputs_and_outputs_is_left_out(piece):
    assert passed(f"before\n{piece}\n{'-' * 40}\n[after]\n") == "before\n[after]\n"


@pytest.mark.parametrize("line", WANTED)
def test_what_a_stage_says_is_passed_on(line):
    assert passed(f"{line}\n") == f"{line}\n"


def test_colours_are_removed_and_nothing_steers_the_terminal():
    assert passed("\x1b[0;36m(EngineCore pid=1)\x1b[0;0m \x1b[91mfailed\x1b[0m \x1b[2J\n") == (
        "(EngineCore pid=1) failed \\x1b[2J\n"
    )


def test_what_each_stage_said_is_kept_apart():
    """A thread reads what a stage prints, and several stages print at once, each line in two parts."""
    stream = io.StringIO()
    lines = StageLines(stream)
    together, said = threading.Barrier(3), {}

    def say(number: int) -> None:
        for part in (f"{number}: ", "first\n", f"{number}: ", "last"):
            lines.write(part)
            together.wait()
        said[number] = lines.said()
        lines.begin()
        assert lines.said() == ""

    threads = [threading.Thread(target=say, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: f"{number}: first\n{number}: last" for number in range(3)}
    assert sorted(stream.getvalue().splitlines()) == ["0: first", "1: first", "2: first"]


@given(st.lists(st.integers(1, 30), max_size=10))
def test_how_the_output_is_cut_into_writes_does_not_matter(sizes):
    text = "".join(f"{line}\n" for line in [*NOISE, *WANTED])
    assert passed(text, sizes) == "".join(f"{line}\n" for line in WANTED)


def ended(program: str, monkeypatch: pytest.MonkeyPatch) -> list[Exit]:
    """How a stage ends whose process is this program, read as the local runner reads it, indented."""
    lines = StageLines(io.StringIO())
    from kfp.local import subprocess_task_handler as handler

    monkeypatch.setattr(handler, "print", lambda text, end="\n": lines.write(f"    {text}{end}"), raising=False)
    with exits_kept(lines) as exits:
        handler.run_local_subprocess([sys.executable, "-c", program])
    return exits


def test_the_end_of_a_traceback_stands_under_the_message(monkeypatch):
    """As torch prints it once vLLM has begun (torch/distributed/distributed_c10d.py, its excepthook)."""
    traceback = ["[rank0]: Traceback (most recent call last):", *(f"[rank0]:   line {n}" for n in range(12))]
    traceback.append("[rank0]: ValueError: the reason")
    colored = "".join(f"\x1b[31m{line}\x1b[0m\n" for line in traceback)
    exits = ended(f"print({colored!r}, end=''); raise SystemExit(1)", monkeypatch)
    failure = local._failure("Inner task failed: 'generate' inside 'self-play-2'.", exits, "runs/x")
    head = "the run failed in self-play 2 generate: exit code 1; `sppo resume runs/x` goes on from there"
    assert str(failure).splitlines() == [head, *(f"  {line}" for line in traceback[-10:])]
    assert type(failure) is RunFailedError


@pytest.mark.parametrize(("code", "kind"), [(2, ConfigError), (3, InfrastructureError), (4, RunFailedError)])
def test_an_error_line_is_the_message_and_its_exit_code_the_runs(monkeypatch, code, kind):
    exits = ended(f"print('chunk 1'); print('error: no room'); raise SystemExit({code})", monkeypatch)
    failure = local._failure("Inner task failed: 'prepare'.", exits, "runs/x")
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
    failure = local._failure("Inner task failed: 'train'.", [Exit(code, [])], "runs/x")
    assert str(failure) == f"the run failed in train: {words}; `sppo resume runs/x` goes on from there"
