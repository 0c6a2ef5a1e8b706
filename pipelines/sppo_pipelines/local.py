"""The pipeline on one machine: the same components in processes of their own, under `kfp.local`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

from sppo.config.run import RunConfig, resolve
from sppo.errors import KINDS, ConfigError, InfrastructureError, RunFailedError, SppoError
from sppo.process.output import goes_on, printable
from sppo.reporting.tracking.ending import end
from sppo.stages import prepared
from sppo.store.opening import open_store
from sppo_pipelines.console import StageLines
from sppo_pipelines.kfp_local import Exit, conditions_on_outputs, exits_kept, print_kept
from sppo_pipelines.profile import Profile

_QUIET = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""The stages say what they do line by line: bars of libraries would fill a log, and their warnings hide it."""


def run_locally(values: Mapping[str, Any]) -> RunConfig:
    """Play a whole alignment run here, going on from whatever is committed under its output_uri.

    Args:
        values: overrides of the configuration.

    Returns:
        The resolved configuration.

    Raises:
        ConfigError: for wrong input, before anything is written.
        SppoError: if a stage failed, of the kind of its exit code; what it and earlier stages committed stays.
    """
    config = resolve(dict(values))
    # In this process first, so that a mistake is told at once; the pipeline's own prepare then finds it done.
    with goes_on("what is committed is kept; the same command goes on from there"):
        prepared(config)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from kfp import local

    from sppo_pipelines.sppo import make_pipeline

    with (
        tempfile.TemporaryDirectory(prefix="sppo-pipeline-") as folder,
        warnings.catch_warnings(),
        goes_on(f"what is committed is kept; `sppo resume {config.output_uri}` goes on from there"),
        open_store(config.output_uri).only_user(),
        conditions_on_outputs(),
        contextlib.redirect_stdout(StageLines(sys.stdout)) as lines,
        exits_kept(lines) as exits,
        print_kept(),
    ):
        # GPU limits and node selectors mean nothing here; the local runner says so for every task.
        warnings.simplefilter("ignore")
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=folder, raise_on_error=True)
        # A failed stage ends the run: `sppo resume` goes on from what is committed.
        pipeline = make_pipeline(config.iterations, Profile(retries=0))
        try:
            pipeline(output_uri=config.output_uri, preset=config.preset, config=config.model_dump(mode="json"))
        except RuntimeError as error:
            raise _failure(str(error), exits, config.output_uri) from error
        except SystemExit:  # a signal: the stages are told to end, and no exit task is played
            end(open_store(config.output_uri), failed=False)
            raise
    return config


def _failure(told: str, exits: list[Exit], output_uri: str) -> SppoError:
    """The failure of a run, of the kind that the first stage that failed ended with.

    Args:
        told: what the local runner says: the failed task, what it is in, and what that is in.
        exits: how stages failed, in the order in which they ended.
        output_uri: where the run is.
    """
    names = re.findall(r"'([\w-]+)'", printable(told).partition("Inner task failed: ")[2])
    iteration = next((f"self-play {n.rpartition('-')[2]} " for n in names if n.startswith("self-play-")), "")
    what = f"the run failed in {iteration}{names[0]}" if names else f"the run failed: {told.splitlines()[0]}"
    code, lines = exits[0] if exits else Exit(1, [])
    kind = KINDS.get(code, RunFailedError)
    advice = {
        ConfigError: "correct the input and run again",
        InfrastructureError: f"when that is mended, `sppo resume {output_uri}` goes on",
    }.get(kind, f"`sppo resume {output_uri}` goes on from there")
    if lines and lines[0].startswith("error: "):
        return kind(f"{what}: {lines[0].removeprefix('error: ')}; {advice}", *lines[1:])
    return kind(f"{what}{_ended(code) if exits else ''}; {advice}", *lines)


def _ended(code: int) -> str:
    """How a process ended that does not tell it itself; a shell tells a signal as 128 and its number."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        return ": killed, as a machine does that is out of memory"
    return f": {signal.Signals(number).name}" if number in set(signal.Signals) else f": exit code {code}"
