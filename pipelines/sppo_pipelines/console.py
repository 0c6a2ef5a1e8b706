"""What a local run shows: the stages' own lines, without the local runner's inner ones."""

from __future__ import annotations

import re
import threading
from typing import TextIO

COLOR = re.compile(r"\x1b\[\d+m")
_INNER = re.compile(
    r"^\s*($|[-\d.]+,?$|[\"{}\[\]]|-{20}|\S+: (Dataset|Artifact|Metrics|HTML|Markdown)\(|(uri|metadata)=)"
)
_ERROR = re.compile(r"\s*(error: .*)")
_STATUS = re.compile(r"^\d\d:\d\d:\d\d\.\d+ - [A-Z]+ - ")


class StageLines:
    """A text stream that passes a local run's output on line by line, leaving out what only repeats its inputs.

    The local runner prints every task's executor input as JSON, and its outputs as nested literals; a person who
    follows a run looks for what the stages say, and for what started, ended or failed.

    `errors` holds the last `error:` line by the thread that wrote it: each stage's output comes from one.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.partial = ""
        self.errors: dict[int, str] = {}

    def write(self, text: str) -> int:
        """Pass on the lines that are complete and wanted."""
        *lines, self.partial = (self.partial + text).split("\n")
        for line in lines:
            plain = COLOR.sub("", line)
            if error := _ERROR.match(plain):
                self.errors[threading.get_ident()] = error[1]
            if not _INNER.match(plain) and not (_STATUS.match(plain) and plain.endswith("outputs:")):
                self.stream.write(plain + "\n")
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Colours are left out."""
        return False
