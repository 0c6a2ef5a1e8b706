"""The pipeline on one machine: the same components in processes of their own, under `kfp.local`."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from sppo.config.run import PreparedConfig, resolve
from sppo.errors import KINDS, ConfigError, InfrastructureError, RunFailedError, SppoError
from sppo.preparing.recorded import current
from sppo.process.child import in_child
from sppo.process.dropped import Work
from sppo.process.output import goes_on, printable
from sppo.process.plan import Plan, plan
from sppo.reporting.tracking.ending import LOCAL_RUN, end
from sppo.stages import Named, named, prepared
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.lineage import Lineage
from sppo.store.opening import open_store
from sppo_pipelines.board import Board, Task
from sppo_pipelines.kfp_local import Exit, conditions_on_outputs, tasks_told
from sppo_pipelines.profile import Profile
from sppo_pipelines.view import shown, telling
from sppo_pipelines.warm import Warm, imports_for, warm_server

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # those of transformers too
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""The stages say what they do line by line: bars of libraries would fill a log, and their warnings hide it."""


def run_locally(values: Mapping[str, Any], plan_only: bool = False, verbose: bool = False) -> PreparedConfig | None:
    """Play a whole alignment run here, going on from whatever is committed under its output_uri.

    Args:
        values: overrides of the configuration.
        plan_only: say what would be done, and do nothing.
        verbose: show every line that the stages print.

    Returns:
        The configuration, with what it names; None if only the plan was asked for.

    Raises:
        ConfigError: for wrong input, before anything is written.
        SppoError: if a stage failed, of the kind of its exit code; what it and earlier stages committed stays.
    """
    # In this process first, so that a mistake is told at once; the pipeline's own prepare then finds it done.
    with goes_on("what is committed is kept; the same command goes on from there"):
        asked = resolve(dict(values))
        if not plan_only:  # what follows may load from a hub, or convert a model
            print(f"{asked.output_uri}: checking the models, the prompts and the judge", flush=True)
        with telling("checking the models, the prompts and the judge"):
            found = named(asked)
        planned = plan(found.config, open_store(found.config.output_uri))
        planned.tell(asked=plan_only)
        if plan_only:
            return None
    imports = imports_for({work.stage for work in planned.missing}, found.config.generate.engine)
    with _environment(_QUIET), warm_server(imports) as warm:
        return _play(asked.output_uri, found, planned, warm, verbose)


def _play(output_uri: str, found: Named, planned: Plan, warm: Warm, verbose: bool) -> PreparedConfig:
    """Play the pipeline.

    Args:
        output_uri: as the user wrote it.
        found: the configuration, with what it names.
        planned: what is there already.
        warm: what imports meanwhile what the stages need.
        verbose: show every line that the stages print.
    """
    store = open_store(found.config.output_uri)
    benchmarks = bool(found.config.bench.benchmarks)
    board = Board(found.config.iterations, planned.there, _known(found.config, store), benchmarks)
    with goes_on("what is committed is kept; the same command goes on from there"):
        board.begun(Task("prepare"))
        config = in_child(partial(_prepare, found))
        board.ended(Task("prepare"), 0)
    digits = keys.short(config.digest())
    from kfp import local

    from sppo.reporting.report.titles import model_title
    from sppo_pipelines.sppo import make_pipeline

    title = f"{model_title(config.base_model)} in {output_uri}"

    with (
        tempfile.TemporaryDirectory(prefix="sppo-pipeline-") as folder,
        _environment({LOCAL_RUN: digits}),
        warnings.catch_warnings(),
        goes_on(f"what is committed is kept; `sppo resume {output_uri}` goes on from there"),
        store.only_user(digits),
        conditions_on_outputs(),
        shown(board, title, partial(_over_the_base, config, store), verbose) as listener,
        tasks_told(listener, warm) as exits,
    ):
        # GPU limits and node selectors mean nothing here; the local runner says so for every task.
        warnings.simplefilter("ignore")
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=folder, raise_on_error=True)
        # A failed stage ends the run: `sppo resume` goes on from what is committed.
        pipeline = make_pipeline(config.iterations, Profile(retries=0))
        try:
            pipeline(output_uri=config.output_uri, preset=config.preset, config=config.asked())
        except RuntimeError as error:
            others = current(store) != digits
            raise _failure(str(error), exits, output_uri + (f"#{digits}" if others else "")) from error
        except SystemExit:  # a signal: the stages are told to end, and no exit task is played
            end(store, failed=False)
            raise
    return config


def _prepare(found: Named) -> PreparedConfig:
    with telling("prepare"):
        config, _ = prepared(found)
    return config


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for the stages' processes, where they are not set."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _known(config: PreparedConfig, store: Store) -> dict[Work, float]:
    """Seconds of the work of what is trained and evaluated already, each of which is one task."""
    lineage = Lineage(config, store)
    iterations = range(1, config.iterations + 1)
    committed = {Work("train", t): store.manifest(lineage.model_key(t)) for t in iterations}
    committed |= {Work("evaluate", t): store.manifest(lineage.evaluation_key(t)) for t in iterations}
    return {work: made.seconds for work, made in committed.items() if made is not None and made.seconds is not None}


def _over_the_base(config: PreparedConfig, store: Store, iteration: int) -> list[str]:
    """An iteration's win rate, mean probability and instructions, once it is evaluated."""
    from sppo.reporting.report.figures import followed, share, with_interval

    evaluated = store.manifest(Lineage(config, store).evaluation_key(iteration))
    if evaluated is None:
        return []
    figures = evaluated.figures
    probability = f"P {share(figures['eval/mean_probability_vs_base'])}"
    instructions = [f"instructions {words}"] if (words := followed(figures)) else []
    return [with_interval(figures, "eval/win_rate_vs_base"), probability, *instructions]


def _failure(told: str, exits: list[Exit], output_uri: str) -> SppoError:
    """The failure of a run, of the kind that the first stage that failed ended with.

    Args:
        told: what the local runner says.
        exits: how stages failed, in the order in which they ended.
        output_uri: where the run is.
    """
    if not exits:
        return RunFailedError(f"the run failed: {printable(told)}; `sppo resume {output_uri}` goes on from there")
    task, code, lines = exits[0]
    what = f"the run failed in {task.title}"
    kind = KINDS.get(code, RunFailedError)
    advice = {
        ConfigError: "correct the input and run again",
        InfrastructureError: f"when that is mended, `sppo resume {output_uri}` goes on",
    }.get(kind, f"`sppo resume {output_uri}` goes on from there")
    if lines and lines[0].startswith("error: "):
        return kind(f"{what}: {lines[0].removeprefix('error: ')}; {advice}", *lines[1:])
    return kind(f"{what}{_ended(code)}; {advice}", *lines)


def _ended(code: int) -> str:
    """How a process ended that does not tell it itself; a shell tells a signal as 128 and its number."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        return ": killed, as a machine does that is out of memory"
    return f": {signal.Signals(number).name}" if number in set(signal.Signals) else f": exit code {code}"
