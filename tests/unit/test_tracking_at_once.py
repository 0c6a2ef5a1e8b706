"""Two runs that write at once into a database which is not there yet."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]
PLAY = """
import multiprocessing, sys
from sppo.config.run import resolve
from sppo.reporting.tracking import track, tracking_uri
from sppo.store.opening import open_store
from tests.unit.test_tracking import EVERYTHING, placed

fork = multiprocessing.get_context("fork")
ready = fork.Barrier(2)

def play(place):
    config, store = resolve({"output_uri": place}), open_store(place)
    store.root.mkdir()
    ready.wait()
    for record in EVERYTHING:
        for often in range(4):
            track(config, store, placed(record.model_copy(update={"texts": {"often.txt": str(often)}}), store))

both = [fork.Process(target=play, args=(place,)) for place in sys.argv[1:]]
for process in both:
    process.start()
for process in both:
    process.join()
sys.exit(any(process.exitcode for process in both))
"""
"""Both are forked from a process that has imported everything."""


def test_both_are_whole_and_share_an_experiment_and_a_registered_model(tmp_path: Path) -> None:
    # MLflow leaves what another test's client was told in the environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-c", PLAY, str(tmp_path / "one"), str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert not database.execute("select name from sqlite_master where name like '_alembic_tmp%'").fetchall()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("sppo")
    assert experiment.artifact_location == (tmp_path / "mlflow-artifacts").as_uri()
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["iteration-1", "iteration-1", "one", "other"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if run.info.run_name != "iteration-1":
            assert run.data.metrics["eval/win_rate_vs_base"] == 0.6
            assert (tmp_path / "mlflow-artifacts" / run.info.run_id / "artifacts" / "often.txt").read_text() == "3"
    versions = client.search_model_versions("name = 'sppo'")
    assert sorted(version.tags["sppo.uri"] for version in versions) == [
        str(tmp_path / name / "iteration-1" / "model") for name in ("one", "other")
    ]
