"""The last words of a stage that failed, whether its log is read on a cluster or heard here."""

from __future__ import annotations

import re
from itertools import takewhile

from sppo.process.output import printable

SHOWN = 10
"""Lines of a log that are shown, if none of them is an `error:` line."""
_OURS = re.compile(r"\s*error: ")
_LAUNCHER = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ ")
"""How a line of Kubeflow's launcher begins (glog)."""
_ARGO = re.compile(r'time=\S+ level=\S+ msg=|\{"time":.*"argo":true|Error: exit status \d+$')
"""The same of Argo's executor, in text or JSON; the last is what older versions print at the end."""


def last_lines(log: str) -> list[str]:
    """What a stage said last, without what is around it.

    That is its `error:` line with those that belong to it, which are indented, or else the end of its traceback.
    """
    lines = [printable(line).rstrip() for line in log.splitlines() if line.strip()]
    own = [line for line in lines if not _LAUNCHER.match(line) and not _ARGO.match(line)]
    errors = [number for number, line in enumerate(own) if _OURS.match(line)]
    if not errors:
        return own[-SHOWN:] or lines[-SHOWN:]
    error = own[errors[-1]]
    indent = error[: len(error) - len(error.lstrip())] + "  "
    below = takewhile(lambda line: line.startswith(indent), own[errors[-1] + 1 :])
    return [line.strip() for line in [error, *below]][: 1 + SHOWN]
