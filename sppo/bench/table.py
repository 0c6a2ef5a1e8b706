"""Results of benchmarks as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from sppo.bench.base import Result

UNITS = {"alpaca_eval": "win rates in percent", "mt_bench": "grades from 1 to 10", "leaderboard": "shares of 1"}


def result_table(results: Sequence[Result]) -> str:
    """Every figure of every benchmark, under a line that says what it depends on."""
    parts = []
    for result in results:
        lines = [
            f"## {result.benchmark}: {UNITS[result.benchmark]}",
            "",
            f"{result.model} ({result.model_digest[:12]}), judged by {result.judge}; {result.requests} requests; "
            f"prompts of {result.prompts} (SHA-256 {result.prompts_digest[:12]})",
            "",
            "| figure | value |",
            "|---|---|",
            *(f"| {name} | {value:.6g} |" for name, value in result.figures.items()),
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
