"""Work in a process of its own."""

import multiprocessing
import os
import signal
import sys
from functools import partial

import pytest

from sppo.errors import ConfigError, RunFailedError
from sppo.process.child import in_child


def _loads(module: str) -> tuple[int, bool]:
    __import__(module)
    return os.getpid(), module in sys.modules


def _refuses(*lines: str) -> None:
    raise ConfigError(*lines)


def _fails() -> None:
    raise ZeroDivisionError("by hand")


def test_what_is_imported_there_is_not_here() -> None:
    assert "tabnanny" not in sys.modules
    process, loaded = in_child(partial(_loads, "tabnanny"))
    assert process != os.getpid() and loaded and "tabnanny" not in sys.modules


@pytest.mark.parametrize("lines", [("x: wrong; mend it",), ("a\nb", "what it said", "and more")])
def test_what_it_raises_is_raised_here_word_for_word(lines: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as raised:
        in_child(partial(_refuses, *lines))
    assert str(raised.value) == str(ConfigError(*lines))


def test_a_mistake_of_ours_tells_its_place() -> None:
    with pytest.raises(ZeroDivisionError, match="by hand") as raised:
        in_child(_fails)
    assert "in _fails" in "".join(raised.value.__notes__)


def test_a_killed_process_is_told() -> None:
    with pytest.raises(RunFailedError, match=r"exit code -9"):
        in_child(_kill_itself)


def _kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_ends_in_order_ends_this_one_likewise() -> None:
    with pytest.raises(SystemExit) as ended:
        in_child(partial(sys.exit, 130))
    assert ended.value.code == 130


def test_nobody_waits_for_work_that_a_signal_ends_here() -> None:
    """As `sppo run` is ended: its handler raises SystemExit, and the child does not outlive it."""

    def raise_exit(*_: object) -> None:
        raise SystemExit(143)

    kept = signal.signal(signal.SIGALRM, raise_exit)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(SystemExit):
            in_child(_sleep)
        assert multiprocessing.active_children() == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)


def _sleep() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pause()
