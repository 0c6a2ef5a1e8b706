"""The `sppo` command."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from sppo import cli as stage
from sppo.cli import ConfigFile, Overrides, RunPlace, collect_values
from sppo.config.reading import read_overrides
from sppo.config.run import RunConfig, all_keys, explain, kinds, resolve
from sppo.errors import ConfigError, GateFailedError, SppoError, storage_errors
from sppo.preparing.recorded import recorded_config
from sppo.process.folders import find_folders
from sppo.process.output import plain_output
from sppo.reporting.compare.command import compare
from sppo.store import keys
from sppo.store.opening import open_store
from sppo_pipelines.submission import cli as submission

if TYPE_CHECKING:
    from sppo.reporting.report import RunReport

app = tyro.extras.SubcommandApp()
SHOWN = 10
"""Judgements that `sppo judge` prints."""


def run(overrides: Overrides = (), preset: str | None = None, config_file: ConfigFile = None) -> None:
    """Play a whole alignment run on this machine; what is committed already is not done again."""
    from sppo_pipelines.local import run_locally

    _finish(run_locally(collect_values(preset, config_file, overrides)))


def resume(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT_URI|RUN_ID")],
    moved: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=FOLDER")] = (),
    host: submission.Host = "",
    wait: tyro.conf.FlagCreatePairsOff[bool] = False,
    keep_going: submission.KeepGoing = 0,
    junit: Path | None = None,
) -> None:
    """Go on with a run that stopped: here, from what is committed, or on a cluster.

    Args:
        run: The run's folder or s3://…; with --host the id of a run there.
        moved: Where a model folder of this run lies now, as base_model=FOLDER or preference_model=FOLDER.
        host: Kubeflow Pipelines, such as https://kubeflow.example.org/pipeline.
        wait: With --host, follow the run to its end, and exit as `sppo submit --wait`.
        keep_going: With --wait, how often to resume the run when infrastructure ends it.
        junit: With --wait, a JUnit report to write.
    """
    submission.check_wait(wait, keep_going, junit)
    if host:
        if moved:
            raise ConfigError(f"{moved[0]}: names a folder of this machine; a run on a cluster is resumed without it")
        submission.resume_there(run, host, wait, keep_going, junit)
        return
    if wait:
        raise ConfigError("--wait follows a run on a cluster: give --host too")
    from sppo_pipelines.local import run_locally

    config = recorded_config(run)
    find_folders(config, read_overrides(moved, kinds(RunConfig)))
    _finish(run_locally(config.model_dump(mode="json")))


def report(output_uri: RunPlace) -> None:
    """Print the table of a run."""
    _print_table(recorded_config(output_uri))


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
    from sppo_pipelines.compiling import compile_pipeline

    limits = compile_pipeline(output, max_iterations, profile, images)
    most = (limits.shard_iterations or 0) // max_iterations
    print(f"wrote {output}: up to {max_iterations} iterations of {most} shards fit into a workflow of Argo")


def train_preference(
    train: tuple[str, ...],
    output: str,
    settings: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=VALUE")] = (),
    evaluate: tuple[str, ...] = (),
    license: tuple[str, ...] = (),
    baseline: str = "",
    seed: int = 0,
) -> None:
    """Train the embedded kind of preference model from preference pairs.

    Args:
        train: Files of pairs: .jsonl or .jsonl.gz with prompt, chosen and rejected.
        output: Folder for the model.
        settings: How to train, such as epochs=7 learning_rate=1e-4; write them before the flags.
        evaluate: Held-out files of pairs, each as NAME=FILE.
        license: Licences of the training files, each as FILENAME=LICENCE.
        baseline: A judge that the card compares with on the held-out files, such as package:sppo.
        seed: Of everything random.
    """
    from pydantic import ValidationError

    from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig

    named = {"evaluate": _by_name("evaluate", evaluate), "licenses": _by_name("license", license)}
    values = {
        "train": train,
        "output": output,
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
        settings: How to judge, such as judge.dtype=float32 rank.temperature=2; write them before the flags.
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


def _by_name(flag: str, pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--{flag}: {pair!r} has no '='; give NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "resume": resume,
    "report": report,
    "compile": compile_package,
    "train-preference": train_preference,
    "judge": judge,
    "compare": compare,
    "keep-going": submission.keep_going,
    "submit": submission.submit,
    "logs": submission.logs,
    "config": stage.config,
    "prepare": stage.prepare,
    "generate": stage.generate,
    "rank": stage.rank,
    "train": stage.train,
    "evaluate": stage.evaluate,
    "publish": stage.publish,
    "bench": stage.bench,
}


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
            play = app.cli(
                prog="sppo", description="Self-Play Preference Optimization: align a chat model to human preference."
            )
        with plain_output(), storage_errors():
            play()
    except SppoError as error:
        with plain_output():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _stopped(number: int, _: object) -> None:
    # The local runner waits for its threads, and they for their processes: these must end first.
    _end_children()
    sys.exit(128 + number)


def _end_children() -> None:
    """A stage's process must not outlive the command that started it."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.terminate()


def _finish(config: RunConfig) -> None:
    """Say how the run ended and where to look.

    Raises:
        GateFailedError: if the best model does not meet the gate.
    """
    from sppo.reporting.tracking import tracking_uri

    store = open_store(config.output_uri)
    collected = _print_table(config)
    print(f"model:   {store.uri}/{keys.PUBLISHED_MODEL}")
    print(f"report:  {store.uri}/{keys.PUBLISHED_REPORT}/{keys.REPORT_FILE}")
    print(f"MLflow:  {_mlflow_hint(tracking_uri(store))}")
    if not collected.passed:
        required = config.evaluate.gate.required_vs_base
        raise GateFailedError(f"the best model's win rate over the base is not above {required} with 95 % confidence")


def _mlflow_hint(uri: str | None) -> str:
    """How to look at a run in MLflow; an address is shown without its password."""
    from sppo.reporting.tracking import without_password

    if uri is None:
        return "set MLFLOW_TRACKING_URI and run `sppo resume` to send the figures there"
    if uri.startswith("sqlite"):
        return f"{Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {shlex.quote(uri)}"
    return without_password(uri)


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


def _print_table(config: RunConfig) -> RunReport:
    """Print a run's table, and give the report that it is taken from."""
    from sppo.reporting.report import SUMMARY_COLUMNS, collect, summary_rows

    collected = collect(config, open_store(config.output_uri))
    table = Table(*(Column(name, no_wrap=True) for name in SUMMARY_COLUMNS), box=SIMPLE)
    for row in summary_rows(collected):
        table.add_row(*row)
    # On a narrow terminal whole lines wrap, which is better than figures that are cut.
    Console(width=max(Console().width, 115)).print(table)
    return collected
