"""What a process writes for people: nothing that steers their terminal, and no complaint when nobody reads on."""

from __future__ import annotations

import _thread
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from sppo.errors import InfrastructureError

_COLOR = re.compile(r"(\x1b\[[\d;:]*m)")
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
    # A carriage return within a line would let its end cover its beginning; bars of libraries begin with one.
    "|(?<=[^\r\n])\r+(?=[^\r\n])"
)
"""All control characters but tabs and line ends, those that turn the direction of writing, and halves of characters."""


def printable(text: str) -> str:
    """A text as a terminal may get it: colours left out, other control characters escaped as Python writes them."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), _COLOR.sub("", text))


def _with_colors(text: str) -> str:
    return "".join(part if _COLOR.fullmatch(part) else printable(part) for part in _COLOR.split(text))


class Output:
    """A stream of lines for people, in front of the process's own.

    Where the reader has gone, as in `sppo report RUN | head`, what is still written is dropped, and the command ends as
    the signal SIGPIPE would end it.

    Raises:
        InfrastructureError: if what is written cannot be, such as on a full disk.
        SystemExit: if the reader has gone.
    """

    def __init__(self, stream: TextIO, escaped: Callable[[str], str]) -> None:
        self.stream, self.escaped = stream, escaped

    def write(self, text: str) -> int:
        """Write what may be written of it."""
        with self._told():
            self.stream.write(self.escaped(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Flush the stream behind."""
        with self._told():
            self.stream.flush()

    def isatty(self) -> bool:
        """Whether colours are of use."""
        return self.escaped is not printable and self.stream.isatty()

    def __getattr__(self, name: str) -> Any:
        """Whatever else a stream has: its encoding, its descriptor."""
        return getattr(self.stream, name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._drop()
            if threading.current_thread() is threading.main_thread():
                raise SystemExit(128 + signal.SIGPIPE) from None
            _thread.interrupt_main(signal.SIGTERM)
        except OSError as error:
            self._drop()
            raise InfrastructureError(f"standard output: {error.strerror}; free or allow that place") from error

    def _drop(self) -> None:
        """Lead the stream nowhere: Python would complain at its end of what is left in it."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


@contextmanager
def plain_output(colors: bool = False) -> Iterator[None]:
    """Pass all that Python code of this process prints through `printable`, as it is partly the words of others.

    Args:
        colors: let colours through, while nothing is printed but our own words and the command line.
    """
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is not None and not isinstance(stream, Output):  # None where it was closed from the start
                if hasattr(stream, "reconfigure"):
                    stream.reconfigure(errors="backslashreplace")  # a narrow encoding lacks some of our letters
                output = Output(stream, _with_colors if colors and stream.isatty() else printable)
                stack.enter_context(redirect(output))
                stack.callback(output.flush)
        yield


def terminal() -> TextIO:
    """Standard output for what steers the terminal itself, and escapes the words of others before."""
    stream = sys.stdout
    return Output(stream.stream, str) if isinstance(stream, Output) else stream  # type: ignore[return-value]


@contextmanager
def goes_on(how: str) -> Iterator[None]:
    """Say what is kept and how to go on, if a signal ends what is inside."""
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.code, int) and ended.code > 128:
            print(f"stopped: {how}", file=sys.stderr, flush=True)
        raise
