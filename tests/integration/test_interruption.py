"""A run that is killed in every stage, or told to end, and resumed ends where an uninterrupted one ends."""

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
from mlflow import MlflowClient

from sppo.store import keys, tables
from sppo.store.base import file_sha256
from sppo.store.opening import open_store
from tests.conftest import lineage_of
from tests.integration.conftest import Command


def test_killed_in_every_stage_and_resumed(small_run: Path, small_settings: list[str], runs: Path) -> None:
    folder = runs / "run"
    lineage = lineage_of(small_run)  # whose keys are those of any run with the same values
    chunk, pairs = folder / lineage.chunk_key(1, 0), lineage.preferences_key(1, 0, 1)

    def kill_when(reached: Callable[[Command], bool], *arguments: str) -> str:
        command = Command(*arguments)
        command.wait_until(lambda: reached(command))
        command.kill()
        return command.output()

    start = ("run", f"output_uri={folder}", "iterations=1", *small_settings)
    kill_when(lambda _: any(folder.glob(".work-*")), *start)
    assert not (folder / lineage.prepared_key).exists()

    ends_by(signal.SIGTERM, 143, *start)
    ends_by(signal.SIGINT, 130, *start)
    assert states(folder) == {"KILLED"}

    kill_when(lambda _: chunk.exists(), *start)
    assert not (folder / lineage.chunk_key(1, 1)).exists()
    first_chunk = file_sha256(chunk / keys.RESPONSES_FILE), (chunk / keys.RESPONSES_FILE).stat().st_mtime_ns

    resume = ("resume", str(folder), "--verbose")
    kill_when(lambda command: command.running("rank"), *resume)
    assert not (folder / pairs).exists()

    kill_when(lambda _: (folder / lineage.checkpoints_key(1) / "latest.json").exists(), *resume)
    assert not (folder / lineage.model_key(1)).exists()

    output = kill_when(lambda _: bool(open_store(str(folder)).committed("answers")), *resume)
    assert "resuming after step" in output
    assert not (folder / lineage.evaluation_key(1)).exists()

    kill_when(lambda command: command.running("publish"), *resume)
    assert not (folder / lineage.published_key).exists()

    output = Command(*resume).succeed()
    assert "loading" not in output
    same_chunk = file_sha256(chunk / keys.RESPONSES_FILE), (chunk / keys.RESPONSES_FILE).stat().st_mtime_ns
    assert same_chunk == first_chunk
    for name, schema in ((keys.PAIRS_FILE, tables.PAIRS), (keys.PREFERENCES_FILE, tables.PREFERENCES)):
        assert tables.read(folder / pairs / name, schema) == tables.read(small_run / pairs / name, schema)
    weights = f"{lineage.model_key(1)}/model.safetensors"
    assert file_sha256(folder / weights) == file_sha256(small_run / weights)
    assert not any(folder.glob(f"{lineage.checkpoints_key(1)}/*"))
    assert states(folder) == {"FINISHED"}
    assert not [path for path in folder.rglob("*") if path.name.startswith(".work-") or ".tmp-" in path.name]


def ends_by(number: signal.Signals, code: int, *arguments: str) -> None:
    """Start a command, end it by a signal while it samples: its exit code says so, and no process is left."""
    command = Command(*arguments)
    command.wait_until(lambda: command.running("generate"))
    children = command.process.children(recursive=True)
    command.process.send_signal(number)
    assert command.process.wait(timeout=60) == code
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def states(folder: Path) -> set[str]:
    """Status of the runs in MLflow."""
    client = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    experiments = [each.experiment_id for each in client.search_experiments()]
    return {run.info.status for run in client.search_runs(experiments)}
