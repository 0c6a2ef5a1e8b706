"""The command `sppo compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sppo.errors import ConfigError, GateFailedError

if TYPE_CHECKING:
    from sppo.reporting.compare.comparison import Comparison

RunA = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_A")]
RunB = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_B")]


def compare(
    run_a: RunA,
    run_b: RunB,
    judge: tyro.conf.FlagCreatePairsOff[bool] = False,
    judged_by: Annotated[str, tyro.conf.arg(metavar="URI")] = "",
    html: Path | None = None,
    markdown: Path | None = None,
    fail_if_worse: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Compare two runs: which is better and how sure that is, and what was done differently.

    Args:
        run_a: A run's folder or s3://…, or mlflow:RUN_ID of the server that MLFLOW_TRACKING_URI names.
        run_b: The run that may be better or worse than it, named in the same ways.
        judge: Let the runs' judge compare the best models' stored answers with each other.
        judged_by: Let this judge compare them instead, also where the runs had different ones.
        html: A page to write.
        markdown: A Markdown file to write.
        fail_if_worse: Exit with 5 if B is worse, and with 2 if nothing can be said because the runs do not compare.
    """
    from sppo.reporting.compare import comparison as work
    from sppo.reporting.compare.pages import print_comparison, render_html, render_markdown
    from sppo.reporting.compare.side import read_side

    comparison = work.compare(read_side("A", run_a), read_side("B", run_b))
    if judge or judged_by:
        from sppo.reporting.compare.head_to_head import head_to_head

        comparison = head_to_head(comparison, judged_by)
    print_comparison(comparison)
    for path, render in ((html, render_html), (markdown, render_markdown)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render(comparison), encoding="utf-8")
            print(f"wrote {path}")
    if fail_if_worse:
        _check(comparison)


def _check(comparison: Comparison) -> None:
    from sppo.reporting.compare.words import headline

    if comparison.direction is None:
        differing = ", ".join(comparison.obstacles)
        raise ConfigError(f"--fail-if-worse: A and B do not compare, they differ in {differing}")
    if comparison.direction == "worse":
        raise GateFailedError(headline(comparison))
