import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sppo_pipelines.console import StageLines

NOISE = [
    "",
    "  {",
    '    "inputs": {',
    "}",
    "]",
    "-" * 40,
    "    metrics: Metrics( name='metrics',",
    "  uri='/tmp/x',",
    "            metadata={})",
    "12:30:45.123 - INFO - Task 'train' outputs:",
]
WANTED = [
    "step 3 of 8: loss 1042.1, |log-ratio| 0.10",
    "12:30:45.123 - INFO - Task 'train' finished with status SUCCESS",
    "error: prompts: /x.jsonl: no such file",
    "Traceback (most recent call last):",
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


@pytest.mark.parametrize("line", NOISE)
def test_what_repeats_a_tasks_inputs_and_outputs_is_left_out(line):
    assert passed(f"before\n{line}\nafter\n") == "before\nafter\n"


@pytest.mark.parametrize("line", WANTED)
def test_what_a_stage_says_is_passed_on(line):
    assert passed(f"{line}\n") == f"{line}\n"


def test_colours_are_removed():
    assert passed("\x1b[91mfailed\x1b[0m\n") == "failed\n"


def test_each_stages_last_error_is_kept():
    """A thread reads what a stage prints, and several stages print at once."""
    lines = StageLines(io.StringIO())
    all_said = threading.Barrier(3)

    def say(number: int) -> None:
        lines.write(f"error: first\n    error: {number}\n")
        all_said.wait()

    threads = [threading.Thread(target=say, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines.write("no error: here\n")
    assert lines.errors == {thread.ident: f"error: {n}" for n, thread in enumerate(threads)}


@given(st.lists(st.integers(1, 30), max_size=10))
def test_how_the_output_is_cut_into_writes_does_not_matter(sizes):
    text = "".join(f"{line}\n" for line in [*NOISE, *WANTED])
    assert passed(text, sizes) == "".join(f"{line}\n" for line in WANTED)
