"""What a local run shows: the stages' own lines, without the local runner's inner ones."""

from __future__ import annotations

import re
import threading
from collections import deque
from typing import TextIO

from sppo.process.output import printable

KEPT = 100
"""Lines of a stage that are kept, to tell why it failed."""
_EXECUTOR = re.compile(r"\s*\[KFP Executor [^]]* (DEBUG|INFO|WARNING)\]: ")
"""How lines begin that the runner's half of a stage's process logs, and libraries through it
(`kfp/dsl/executor_main.py`, 2.17.3)."""
_RUNNER = re.compile(r"\d\d:\d\d:\d\d\.\d+ - [A-Z]+ - ")
"""The same of the runner itself (`kfp/local/logging_utils.py`)."""
_RULE = re.compile(r"\s*-{20,}$")
"""What it draws below a task's outputs."""


class _Thread:
    """What comes from one of the runner's threads, which has the output of one stage at a time."""

    def __init__(self) -> None:
        self.partial = ""
        self.said: deque[str] = deque(maxlen=KEPT)
        self._brackets = 0
        self._inputs = self._outputs = False

    def wanted(self, line: str) -> bool:
        """Whether the next line is for people; the inputs and outputs of tasks are only passed from one to the next."""
        if self._inputs:  # JSON, indented: each bracket that spans lines ends one line and begins another
            self._brackets += line.endswith(("{", "[")) - line.lstrip().startswith(("}", "]"))
            self._inputs = self._brackets > 0
            return False
        self._inputs = bool(_EXECUTOR.match(line)) and line.endswith("Got executor_input:")
        if _RUNNER.match(line) or _RULE.match(line):
            self._outputs = line.endswith(" outputs:")
        return not (self._outputs or _EXECUTOR.match(line) or _RULE.match(line) or not line.strip())


class StageLines:
    """A text stream that passes a local run's output on line by line, leaving out what only repeats its inputs.

    The local runner prints every task's executor input as JSON, and its outputs as nested literals; a person who
    follows a run looks for what the stages say, and for what started, ended or failed.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._threads: dict[int, _Thread] = {}

    def write(self, text: str) -> int:
        """Pass on the lines that are complete and wanted."""
        thread = self._threads.setdefault(threading.get_ident(), _Thread())
        *lines, thread.partial = (thread.partial + text).split("\n")
        for line in map(printable, lines):
            if thread.wanted(line):
                thread.said.append(line)
                self.stream.write(line + "\n")
        return len(text)

    def begin(self) -> None:
        """Forget what this thread's stage before said."""
        self._threads.pop(threading.get_ident(), None)

    def said(self) -> str:
        """The end of what this thread's stage said."""
        thread = self._threads.get(threading.get_ident(), _Thread())
        return "\n".join([*thread.said, printable(thread.partial)])

    def flush(self) -> None:
        """Flush the stream behind."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Colours are left out."""
        return False
