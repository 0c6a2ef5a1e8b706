"""The `sppo` command."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from sppo import cli as stage
from sppo.cli import ConfigFile, Overrides, RunPlace, collect_values, recorded_config
from sppo.config import RunConfig, all_keys, explain
from sppo.errors import ConfigError, GateFailedError, SppoError, storage_errors
from sppo.store import open_store

app = tyro.extras.SubcommandApp()


@app.command
def run(overrides: Overrides = (), preset: str | None = None, config_file: ConfigFile = None) -> None:
    """Play a whole alignment run on this machine; what is committed already is not done again."""
    from pipelines.local import run_locally

    _finish(run_locally(collect_values(preset, config_file, overrides)))


@app.command
def resume(output_uri: RunPlace) -> None:
    """Go on with a run that stopped, from what is committed."""
    from pipelines.local import run_locally

    _finish(run_locally(recorded_config(output_uri).model_dump(mode="json")))


@app.command
def report(output_uri: RunPlace) -> None:
    """Print the table of a run."""
    _print_table(recorded_config(output_uri))


@app.command(name="compile")
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
    from pipelines.compiling import compile_pipeline

    compile_pipeline(output, max_iterations, profile, images)
    print(f"wrote {output}")


@app.command(name="train-preference")
def train_preference(
    train: tuple[str, ...],
    output: str,
    settings: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=VALUE")] = (),
    evaluate: tuple[str, ...] = (),
    license: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """Train the embedded kind of preference model from preference pairs.

    Args:
        train: Files of pairs: .jsonl or .jsonl.gz with prompt, chosen and rejected.
        output: Folder for the model.
        settings: How to train, such as epochs=7 learning_rate=1e-4; write them before the flags.
        evaluate: Held-out files of pairs, each as NAME=FILE.
        license: Licences of the training files, each as FILENAME=LICENCE.
        seed: Of everything random.
    """
    from pydantic import ValidationError

    from sppo.preference.config import TrainPreferenceConfig

    named = {"evaluate": _by_name("evaluate", evaluate), "licenses": _by_name("license", license)}
    values = {"train": train, "output": output, "seed": seed, **named, **collect_values(None, None, settings)}
    try:
        config = TrainPreferenceConfig.model_validate(values)
    except ValidationError as error:
        keys = f"the keys are {', '.join(all_keys(TrainPreferenceConfig))}"
        raise ConfigError(explain(error, TrainPreferenceConfig, keys)) from None

    from sppo.preference.training import train_preference as work

    work(config)


def _by_name(flag: str, pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--{flag}: {pair!r} has no '='; give NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


for function in (stage.config, stage.prepare, stage.generate, stage.rank, stage.train, stage.evaluate, stage.publish):
    app.command(function)


def main() -> None:
    """Run the command line; every failure that a person can mend is one line and an exit code."""
    signal.signal(signal.SIGTERM, _stopped)
    signal.signal(signal.SIGINT, _stopped)
    try:
        with storage_errors():
            app.cli(
                prog="sppo", description="Self-Play Preference Optimization: align a chat model to human preference."
            )
    except SppoError as error:
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
    from sppo.report import collect
    from sppo.tracking import tracking_uri

    store = open_store(config.output_uri)
    _print_table(config)
    print(f"model:   {store.uri}/published/model")
    print(f"report:  {store.uri}/published/report/report.html")
    print(f"MLflow:  {_mlflow_hint(tracking_uri(store))}")
    if not collect(config, store).passed:
        required = config.evaluate.gate.required_vs_base
        raise GateFailedError(f"the best model's win rate over the base is not above {required} with 95 % confidence")


def _mlflow_hint(uri: str | None) -> str:
    """How to look at a run in MLflow; an address is shown without its password."""
    if uri is None:
        return "set MLFLOW_TRACKING_URI and run `sppo resume` to send the figures there"
    if uri.startswith("sqlite:"):
        return f"{Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {uri}"
    return re.sub(r"//[^/@\s]*@", "//", uri)


def _print_table(config: RunConfig) -> None:
    from sppo.report import SUMMARY_COLUMNS, collect, summary_rows

    table = Table(*(Column(name, no_wrap=True) for name in SUMMARY_COLUMNS), box=SIMPLE)
    for row in summary_rows(collect(config, open_store(config.output_uri))):
        table.add_row(*row)
    # On a narrow terminal whole lines wrap, which is better than figures that are cut.
    Console(width=max(Console().width, 115)).print(table)
