"""The `sppo` command."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil  # here, as a second signal may interrupt the handler of the first while it imports
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sppo import cli as stage
from sppo.cli import ConfigFile, Overrides, RunPlace, collect_values
from sppo.config.reading import read_overrides
from sppo.config.run import RunConfig, all_keys, explain, kinds, resolve
from sppo.errors import ConfigError, SppoError, storage_errors
from sppo.preparing.recorded import recorded_config
from sppo.process.contents import find_folders
from sppo.process.output import plain_output
from sppo.reporting.compare.command import compare
from sppo.store.opening import open_store
from sppo_pipelines.closing import close, print_table
from sppo_pipelines.overview import DESCRIPTION
from sppo_pipelines.submission import cli as submission
from sppo_pipelines.words import answer_at_once, values_together

app = tyro.extras.SubcommandApp()
SHOWN = 10
"""Judgements that `sppo judge` prints."""


PlanOnly = Annotated[
    tyro.conf.FlagCreatePairsOff[bool],
    tyro.conf.arg(help="Say what is there, and what a changed value redoes; do nothing."),
]

Verbose = Annotated[
    tyro.conf.FlagCreatePairsOff[bool],
    tyro.conf.arg(help="Show every line that the stages print, in the place of what is done and what is to come."),
]


def run(
    overrides: Overrides = (),
    preset: str | None = None,
    config_file: ConfigFile = None,
    plan_only: PlanOnly = False,
    verbose: Verbose = False,
) -> None:
    """Play a whole alignment run on this machine; what is committed already is not done again."""
    from sppo_pipelines.profile import hardware_keys

    values = collect_values(preset, config_file, overrides)
    for name in values.keys() & hardware_keys():
        raise ConfigError(f"{name}: is the hardware of pods; `sppo submit` takes it, a run on this machine does not")
    _play(values, plan_only, verbose)


def resume(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT_URI|RUN_ID")],
    moved: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=FOLDER")] = (),
    host: submission.Host = "",
    wait: tyro.conf.FlagCreatePairsOff[bool] = False,
    keep_going: submission.KeepGoing = 0,
    junit: Path | None = None,
    plan_only: PlanOnly = False,
    verbose: Verbose = False,
) -> None:
    """Go on with a run that stopped: here, from what is committed, or on a cluster.

    Args:
        run: The run's folder or s3://…; with --host the id of a run there.
        moved: Where a model folder of this run lies now, as base_model=FOLDER or preference_model=FOLDER.
        host: Kubeflow Pipelines, such as https://kubeflow.example.org/pipeline.
        wait: With --host, follow the run to its end, and exit as `sppo submit --wait`.
        keep_going: With --wait, how often to resume the run when infrastructure ends it.
        junit: With --wait, a JUnit report to write.
        plan_only: Say what is there and what is left; do nothing.
        verbose: Show every line that the stages print here, in the place of what is done and what is to come.
    """
    submission.check_wait(wait, keep_going, junit)
    if host:
        if plan_only:
            raise ConfigError("--plan-only looks into a run's store: give its folder or s3://… without --host")
        if verbose:
            raise ConfigError("--verbose shows what stages print here: give a run's folder or s3://… without --host")
        if moved:
            raise ConfigError(f"{moved[0]}: names a folder of this machine; a run on a cluster is resumed without it")
        submission.resume_there(run, host, wait, keep_going, junit)
        return
    if wait:
        raise ConfigError("--wait follows a run on a cluster: give --host too")
    config = recorded_config(run)
    find_folders(config, read_overrides(moved, kinds(RunConfig)))
    _play(config.asked(), plan_only, verbose)


def _play(values: Mapping[str, Any], plan_only: bool, verbose: bool) -> None:
    from sppo_pipelines.local import run_locally

    began = time.monotonic()
    config = run_locally(values, plan_only, verbose)
    if config is not None:
        close(config, time.monotonic() - began)


def report(output_uri: RunPlace) -> None:
    """Print the table of a run."""
    print_table(recorded_config(output_uri))


def clean(output_uri: RunPlace, dry_run: tyro.conf.FlagCreatePairsOff[bool] = False) -> None:
    """Remove what other values left in a run's place: what no stage of its configuration refers to.

    Args:
        output_uri: The run's folder or s3://…; nothing may be playing there.
        dry_run: List it only.
    """
    from sppo.process.clean import refuse_unfinished, remove, unused

    config = recorded_config(output_uri)
    store = open_store(config.output_uri)
    refuse_unfinished(output_uri, config, store)
    with store.only_user(""):
        found = unused(config, store)
        sizes = {folder: sum(files.values()) / 1e6 for folder, files in found.items()}
        for folder, files in found.items():
            print(f"{sizes[folder]:10.1f} MB  {folder}", flush=True)
            if not dry_run:
                remove(store, folder, files)
    done = "would be removed" if dry_run else "removed"
    print(f"{len(found)} folders, {sum(sizes.values()):.1f} MB, {done}")


def compile_package(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("sppo.yaml"),
    max_iterations: int = 3,
    profile: str = "one-gpu",
    images: Path | None = None,
) -> None:
    """Write the pipeline as a package for Kubeflow Pipelines.

    Args:
        output: The file to write.
        max_iterations: The most iterations that the package can play.
        profile: Defaults of the hardware parameters: a shipped profile's name, or a YAML file.
        images: A YAML file of images by stage, instead of the released ones.
    """
    from sppo_pipelines.compiling import compile_pipeline, tell_unpublished

    limits = compile_pipeline(output, max_iterations, profile, images)
    most = (limits.shard_iterations or 0) // max_iterations
    print(f"wrote {output}: up to {max_iterations} iterations of {most} shards fit into a workflow of Argo")
    tell_unpublished(profile, images)
    print("upload it in Kubeflow's UI, or start a run of it with `sppo submit --host URL`")


def train_preference(
    train: tuple[str, ...],
    output: str,
    settings: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=VALUE")] = (),
    kind: Literal["encoder", "gpm"] = "encoder",
    evaluate: tuple[str, ...] = (),
    license: tuple[str, ...] = (),
    baseline: str = "",
    seed: int = 0,
) -> None:
    """Train a small preference model from preference pairs.

    Args:
        train: Files of pairs: .jsonl or .jsonl.gz with prompt, chosen and rejected.
        output: Folder for the model.
        settings: How to train, such as epochs=7 learning_rate=1e-4.
        kind: What is made: a pairwise encoder, or a General Preference Model, whose preferences can run in a circle.
        evaluate: Held-out files of pairs, each as NAME=FILE.
        license: Licences of the training files, each as FILENAME=LICENCE.
        baseline: A judge that the card compares with on the held-out files, such as package:sppo.
        seed: Of everything random.
    """
    from pydantic import ValidationError

    from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig

    named = {
        "evaluate": _by_name("evaluate", evaluate, "NAME=FILE"),
        "licenses": _by_name("license", license, "FILENAME=LICENCE"),
    }
    values = {
        "train": train,
        "output": output,
        "kind": kind,
        "baseline": baseline,
        "seed": seed,
        **named,
        **read_overrides(settings, kinds(TrainPreferenceConfig)),
    }
    try:
        config = TrainPreferenceConfig.model_validate(values)
    except ValidationError as error:
        keys = f"the keys are {', '.join(all_keys(TrainPreferenceConfig))}"
        raise ConfigError(explain(error, TrainPreferenceConfig, keys)) from None

    from sppo.judging.pairwise.fit import train_preference as work

    work(config)


def judge(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    settings: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=VALUE")] = (),
    judge: Annotated[str, tyro.conf.arg(metavar="URI")] = "package:sppo",
    output: str = "",
    benchmark: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Let a judge compare responses, or measure it on preference pairs.

    Args:
        file: A .jsonl or .jsonl.gz file with prompt and responses (a list); with --benchmark prompt, chosen, rejected.
        settings: How to judge, such as judge.dtype=float32 rank.temperature=2.
        judge: The preference model, as preference_model of a run.
        output: A .jsonl or .parquet file for the logits and probabilities of every row.
        benchmark: Measure how often the judge prefers the chosen response, beside preferring the longer one.
    """
    from sppo.judging import own_files

    values = collect_values(None, None, settings)
    own_files.check_keys(values, own_files.BENCHMARK_KEYS if benchmark else own_files.SCORING_KEYS)
    config = resolve({"preference_model": judge, **values})
    if benchmark:
        if output:
            raise ConfigError("--output keeps judgements, and --benchmark only counts them: give one of the two")
        _print_figures(own_files.benchmark(config, file))
        return
    if output:
        own_files.check_output(output)
    questions = own_files.read_questions(file)
    rows, figures = own_files.score(config, questions)
    if output:
        own_files.write(output, rows)
    _print_judgements(rows)
    _print_figures(figures)
    if output:
        print(f"wrote {output}")


def _by_name(flag: str, pairs: tuple[str, ...], form: str) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--{flag}: {pair!r} has no '='; give {form}")
    return dict(pair.split("=", 1) for pair in pairs)


GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "Align a model on this machine": {
        "run": run,
        "resume": resume,
        "report": report,
        "compare": compare,
        "clean": clean,
    },
    "On a cluster": {
        "compile": compile_package,
        "submit": submission.submit,
        "logs": submission.logs,
        "keep-going": submission.keep_going,
    },
    "Judges and benchmarks": {
        "judge": judge,
        "train-preference": train_preference,
        "bench": stage.bench,
    },
    "The configuration, and one stage by hand": {
        "config": stage.config,
        "prepare": stage.prepare,
        "generate": stage.generate,
        "rank": stage.rank,
        "train": stage.train,
        "evaluate": stage.evaluate,
        "publish": stage.publish,
    },
}
COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}


def _asked(function: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A command that is only parsed: what `main` is to call, once nothing but its own words may be printed."""

    @wraps(function)
    def asked(*args: Any, **values: Any) -> Callable[[], None]:
        return partial(function, *args, **values)

    return asked


for name, function in COMMANDS.items():
    app.command(name=name)(_asked(function))


def main() -> None:
    """Run the command line; every failure that a person can mend is one line and an exit code."""
    signal.signal(signal.SIGTERM, _stopped)
    signal.signal(signal.SIGINT, _stopped)
    try:
        with plain_output(colors=True):
            answer_at_once(sys.argv[1:], GROUPS)
            play = app.cli(
                args=values_together(sys.argv[1:]),
                prog="sppo",
                description=DESCRIPTION,
            )
        with plain_output(), storage_errors():
            play()
    except SppoError as error:
        with plain_output():
            print(f"{error.word}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _stopped(number: int, _: object) -> None:
    # The local runner waits for its threads, and they for their processes: these must end first.
    _end_children()
    sys.exit(128 + number)


def _end_children() -> None:
    """A stage's process must not outlive the command that started it."""
    for child in psutil.Process().children(recursive=True):
        child.terminate()


def _print_judgements(rows: Sequence[Mapping[str, Any]]) -> None:
    """The first judgements, one a line."""
    table = Table("prompt", "responses", "best response", "its P", "worst P", box=SIMPLE)
    for row in rows[:SHOWN]:
        win = row["win_probabilities"]
        texts = (_one_line(text) for text in (row["prompt"], row["responses"][row["best"]]))
        prompt, best = map(Text, texts)
        table.add_row(prompt, str(len(win)), best, f"{max(win):.3f}", f"{min(win):.3f}")
    Console(width=max(Console().width, 80)).print(table)
    if len(rows) > SHOWN:
        print(f"the first {SHOWN} of {len(rows)}")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"


def _print_figures(figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        print(f"{name:<28}{value:.6g}")
