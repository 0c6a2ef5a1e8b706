"""What is printed steers no terminal, and a reader that has gone is no fault."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from sppo_pipelines import cli
from sppo_pipelines.screen import Screen

from sppo import stages
from sppo.errors import ConfigError, InfrastructureError, storage_errors
from sppo.process.output import goes_on, plain_output, printable

STEERING = "\x1b]0;title\x07\x1b[2J\x9b31m\rgone\x1b[31mred"


class Terminal(io.StringIO):
    """A stream that shows colours."""

    def isatty(self) -> bool:
        return True


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\x1b[m;0\r\n\t\x9b\u202e"))))
def test_no_text_steers_a_terminal(text):
    shown = printable(text)
    assert not {c for c in shown if not c.isprintable() and ord(c) < 0xA0} - set("\n\t\r")
    assert not set("\u202e\u2066") & set(shown)
    shown.encode()  # no half of a character is left
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[0;36mb\x1b[0m", "ab"),
        ("\x1b\x1b[0m[31mx", "\\x1b[31mx"),
        ("safe\rgone", "safe\\rgone"),
        ("\r 10%", "\r 10%"),
        ("windows\r\n", "windows\r\n"),
        ("\udcff", "\\udcff"),
        ("π …\t\n", "π …\t\n"),
    ],
)
def test_what_becomes_of_a_text(text, shown):
    assert printable(text) == shown


@contextmanager
def left_by_its_reader() -> Iterator[None]:
    """Standard output leads into a pipe that nobody reads."""
    out, into = os.pipe()
    os.close(out)
    with os.fdopen(into, "w") as stream, redirect_stdout(stream):
        yield
        stream.flush()  # as Python does at its end


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_that_has_gone_ends_the_command_as_sigpipe_does(flush):
    with left_by_its_reader():
        with pytest.raises(SystemExit) as ended, plain_output():
            print("a line", flush=flush)
        assert ended.value.code == 128 + signal.SIGPIPE


def test_a_thread_that_finds_the_reader_gone_ends_the_command():
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        with left_by_its_reader(), plain_output():
            thread = threading.Thread(target=lambda: print("a line", flush=True))
            thread.start()
            thread.join()
            assert told.wait(10)
            print("another line", flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_full_disk_is_told(monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(InfrastructureError, match=f"standard output: {os.strerror(errno.ENOSPC)}"), plain_output():
            print("a line")


def test_a_narrow_encoding_is_no_fault(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    with plain_output():
        print("π")
    assert narrow.buffer.getvalue() == b"\\u03c0\n"


def test_colours_are_for_our_own_words_on_a_terminal(monkeypatch):
    for colors, shown in ((True, "\x1b[31mred \\x1b[2J"), (False, "red \\x1b[2J")):
        monkeypatch.setattr(sys, "stdout", Terminal())
        with plain_output(colors=colors):
            assert sys.stdout.isatty() is colors
            print("\x1b[31mred \x1b[2J", end="")
        assert sys.stdout.getvalue() == shown


def test_what_a_cluster_says_does_not_steer_the_live_tree(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with plain_output():
        Screen().print(Text(f"waits: {STEERING}", style="red"))
    assert "\x1b[31m" in sys.stdout.getvalue()
    assert "\x1b]" not in sys.stdout.getvalue() and "\x1b[2J" not in sys.stdout.getvalue()
    assert "\x9b" not in sys.stdout.getvalue()


def test_no_command_lets_data_reach_the_terminal(run_sppo, monkeypatch):
    def command() -> None:
        print(f"prompt: {STEERING}")
        raise ConfigError(f"model {STEERING}: is none")

    monkeypatch.setattr(cli.submission, "check_wait", lambda *_: command())
    result = run_sppo("submit", "--host", "http://h")
    assert result.code == 2
    shown = "\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\rgonered"
    assert (result.out, result.err) == (f"prompt: {shown}\n", f"error: model {shown}: is none\n")


def test_nor_does_a_table(capsys):
    row = {"prompt": STEERING, "responses": [STEERING], "best": 0, "win_probabilities": [0.5]}
    with plain_output():
        cli._print_judgements([row])
    assert not {"\x1b", "\x07", "\x9b"} & set(capsys.readouterr().out)


def test_nor_does_a_stage_in_a_pod(capsys):
    @stages.stage
    def work() -> None:
        raise ConfigError(f"{STEERING}: is none")

    with pytest.raises(SystemExit):
        work()
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["--help", "no-such-command\x1b[2J", "config"])
def test_nor_does_the_command_line_itself(run_sppo, verb):
    result = run_sppo(verb)
    assert "\x1b" not in result.out + result.err
    assert result.code == (0 if verb == "--help" else 2)


@pytest.mark.parametrize(
    ("arguments", "stop", "told"),
    [
        (("generate", "runs/x"), "sppo.cli._opened", "the same command goes on from there"),
        (("rank", "runs/x"), "sppo.cli._opened", "the same command goes on from there"),
        (("train", "runs/x"), "sppo.cli._opened", "the same command goes on from there"),
        (("evaluate", "runs/x"), "sppo.cli._opened", "the same command goes on from there"),
        (("publish", "runs/x"), "sppo.cli._opened", "the same command goes on from there"),
        (("bench", "runs/x"), "sppo.cli._under_test", "the same command goes on from there"),
        (("prepare",), "sppo.cli.resolve", "the same command goes on from there"),
        (("run", "output_uri=runs/x"), "sppo_pipelines.local.prepared", "the same command goes on from there"),
        (("run", "output_uri=runs/x"), "sppo_pipelines.sppo.make_pipeline", "`sppo resume runs/x` goes on from there"),
    ],
)
def test_what_is_kept_is_told_when_a_signal_ends_a_command(run_sppo, monkeypatch, tmp_path, arguments, stop, told):
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    Path("runs/x").mkdir(parents=True)
    monkeypatch.setattr("sppo_pipelines.local._QUIET", {})
    monkeypatch.setattr("sppo_pipelines.local.prepared", lambda found: (found.config, None))
    monkeypatch.setattr("sppo_pipelines.cli._end_children", lambda: None)
    monkeypatch.setattr(stop, interrupted)
    result = run_sppo(*arguments)
    assert result.code == 130
    assert result.err.startswith("stopped: ") and result.err.endswith(f"; {told}\n")


def test_an_exit_code_that_is_no_signals_is_told_by_others(capsys):
    with pytest.raises(SystemExit), goes_on("all is kept"):
        raise SystemExit(4)
    assert capsys.readouterr().err == ""


def test_an_interrupted_stage_prints_no_traceback(capsys):
    @stages.stage
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 130 and capsys.readouterr().err == ""


def test_the_installed_command_is_quiet_when_its_reader_leaves():
    program = "import sys, sppo_pipelines.cli as cli; sys.argv = ['sppo', 'config', 'schema']; cli.main()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_path_that_none_can_have_is_wrong_input():
    with pytest.raises(ConfigError, match=r"x: File name too long; give another path"), storage_errors():
        Path("x" * 5000).stat()


def test_an_error_that_quotes_several_lines_is_one_line():
    assert str(ConfigError("x\ny: is none")) == "x\\ny: is none"
    assert str(ConfigError("the run failed", "first", "last")) == "the run failed\n  first\n  last"
