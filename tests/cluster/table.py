"""The table that a session ends with: every test, how it ended, how long it took, and what it saw."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pytest


class Row(NamedTuple):
    """A test of the session.

    Attributes:
        test: its name.
        result: passed, failed or skipped.
        seconds: with the runs that were started for it first.
        seen: what it saw, or why it was skipped.
    """

    test: str
    result: str
    seconds: float
    seen: str


def rows_of(reports: Iterable[pytest.TestReport]) -> list[Row]:
    """A row of each test; pytest reports its preparation, the test and its clearing up apart."""
    rows: dict[str, Row] = {}
    for report in reports:
        name = report.nodeid.rpartition("::")[2]
        before = rows.get(name, Row(name, "passed", 0.0, ""))
        seen = "; ".join(str(text) for key, text in report.user_properties if key == "seen") or before.seen
        if report.skipped and isinstance(report.longrepr, tuple):
            seen = report.longrepr[2].removeprefix("Skipped: ")
        result = before.result if report.passed else report.outcome
        rows[name] = Row(name, result, before.seconds + report.duration, seen)
    return list(rows.values())


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as Markdown."""
    head = ["| test | result | time | seen |", "|---|---|--:|---|"]
    return head + [f"| {_words(row.test)} | {row.result} | {_time(row.seconds)} | {row.seen} |" for row in rows]


def _words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
