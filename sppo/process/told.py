"""A run's verdict in the log of its publish step, where whoever follows the run on a cluster finds it."""

from __future__ import annotations

from collections.abc import Iterable

_BEGIN, _END = "--- verdict ---", "--- end of the verdict ---"


def tell(lines: Iterable[str]) -> None:
    """Print a verdict, a line each."""
    print("\n".join((_BEGIN, *lines, _END)), flush=True)


def told(log: str) -> list[str]:
    """The lines of the last verdict in a log; none where there is no whole one."""
    before, end, _ = log.rpartition(f"{_END}\n")
    _, begin, verdict = before.rpartition(f"{_BEGIN}\n")
    return verdict.splitlines() if begin and end else []
