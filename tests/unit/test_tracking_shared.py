"""Runs whose folders lie beside each other share a database: each is told apart, and two can be compared."""

import json
import shutil

import pytest
from mlflow import MlflowClient

from sppo.config.run import resolve
from sppo.reporting.tracking import Model, Record, track, tracking_uri
from sppo.reporting.tracking.identity import known
from sppo.store.opening import open_store
from tests.unit.test_tracking import EVALUATED, EVERYTHING, PREPARED, TRAINED, aliases, placed


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "KFP_RUN_ID", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOGNAME", "ada")


@pytest.fixture
def client(tmp_path, empty_database):
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def play(folder, *records):
    """Track records of a run in a folder; its configuration and store."""
    config, store = resolve({"output_uri": str(folder)}), open_store(str(folder))
    store.root.mkdir(exist_ok=True)
    for record in records:
        track(config, store, placed(record, store))
    return config, store


def runs(client):
    """All runs, the oldest first."""
    experiment = client.get_experiment_by_name("sppo").experiment_id
    found = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
    return [client.get_run(each.info.run_id) for each in found]


def parents(client):
    return [each for each in runs(client) if "mlflow.parentRunId" not in each.data.tags]


def versions(client):
    return {version.tags["sppo.uri"]: version for version in client.search_model_versions("name = 'sppo'")}


def test_runs_in_one_folder_are_in_one_experiment(client, tmp_path):
    for name in ("it's one", "other"):
        for _ in range(2):
            play(tmp_path / name, *EVERYTHING)
    assert [each.info.run_name for each in parents(client)] == ["it's one", "other"]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        *("it's one", "mlflow-artifacts", "mlflow.db", "other")
    ]
    assert not list(tmp_path.glob("*/mlflow*"))


def test_a_run_with_a_database_of_its_own_goes_on_with_it(client, tmp_path, empty_database):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database)
    _, store = play(folder, PREPARED)
    assert tracking_uri(store) == f"sqlite:///{folder}/mlflow.db"
    assert client.get_experiment_by_name("sppo") is None
    (found,) = parents(MlflowClient(tracking_uri(store)))
    assert found.info.artifact_uri.startswith(f"file://{folder}/mlflow-artifacts/")


def test_a_run_of_a_version_before_is_found_by_its_tag(client, tmp_path, monkeypatch):
    """It has records, and nothing that tells it from one that was removed."""
    config, store = play(tmp_path / "run", PREPARED)
    (found,) = parents(client)
    (kept,) = (tmp_path / "run" / "tracking").glob("mlflow-*.json")
    kept.unlink()
    client.set_tag(found.info.run_id, "sppo.run", f"{store.uri} {config.digest()[:16]}")
    play(tmp_path / "run", TRAINED)
    (again,) = parents(client)
    assert again.info.run_id == found.info.run_id and again.data.metrics["train/loss"] == 12.5


def test_a_run_that_was_removed_is_another_in_mlflow(client, tmp_path):
    play(tmp_path / "run", *EVERYTHING)
    shutil.rmtree(tmp_path / "run")
    better = EVALUATED.model_copy(update={"figures": {"eval/win_rate_vs_base": 0.7}})
    play(tmp_path / "run", PREPARED, TRAINED, better)
    first, second = parents(client)
    assert [each.data.metrics["eval/win_rate_vs_base"] for each in (first, second)] == [0.6, 0.7]
    assert [each.info.status for each in (first, second)] == ["FINISHED", "RUNNING"]


def test_what_two_runs_trained_alike_are_two_models_and_two_versions(client, tmp_path):
    stores = [play(tmp_path / name, *EVERYTHING)[1] for name in ("one", "other")]
    found = versions(client)
    assert set(found) == {f"{store.uri}/iteration-1/model" for store in stores}
    assert {version.tags["sppo.published_uri"] for version in found.values()} == {
        f"{store.uri}/published" for store in stores
    }
    assert len(client.search_logged_models([client.get_experiment_by_name("sppo").experiment_id])) == 2


def test_champion_is_who_passed_last_of_one_registered_model(client, tmp_path):
    play(tmp_path / "one", *EVERYTHING)
    first = aliases(client)["champion"]
    play(tmp_path / "other", *EVERYTHING[:-1])
    assert aliases(client) == {"champion": first, "candidate": "2"}
    play(tmp_path / "other", EVERYTHING[-1])
    assert aliases(client) == {"champion": "2", "candidate": "2"}
    apart = resolve({"output_uri": str(tmp_path / "apart"), "publish.registered_model": "mine"})
    store = open_store(apart.output_uri)
    store.root.mkdir()
    for record in EVERYTHING:
        track(apart, store, placed(record, store))
    assert aliases(client)["champion"] == "2"
    assert str(client.get_model_version_by_alias("mine", "champion").version) == "1"


def test_every_run_tells_who_played_it_with_what(client, tmp_path):
    play(tmp_path / "run", *EVERYTHING)
    for each in runs(client):
        tags = each.data.tags
        assert (tags["mlflow.user"], tags["mlflow.source.name"], tags["mlflow.source.type"]) == (
            *("ada", "sppo run", "LOCAL"),
        )
    (model,) = client.search_logged_models([client.get_experiment_by_name("sppo").experiment_id])
    assert (model.tags["mlflow.user"], model.tags["mlflow.source.name"]) == ("ada", "sppo run")


def test_the_parent_run_has_the_best_model_and_that_its_version(client, tmp_path):
    second = Model(uri="/runs/x/iteration-2/model", sha256="12" * 32)
    later = [
        TRAINED.model_copy(update={"iteration": 2, "model": second}),
        EVALUATED.model_copy(update={"iteration": 2, "model": second.model_copy(update={"decision": "stop"})}),
    ]
    play(tmp_path / "run", PREPARED, TRAINED, EVALUATED, *later, EVERYTHING[-1])
    (parent,) = parents(client)
    (output,) = parent.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert logged.tags["sppo.iteration"] == "1"
    # MLflow's UI reads from here which versions a model and its runs have.
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "sppo", "version": "1"}]


def test_charts_of_a_run_begin_with_the_win_rate(client, tmp_path):
    """MLflow sorts them by name (`getBaseChartAndSectionConfigs` of its UI, 3.17)."""
    play(tmp_path / "run", *EVERYTHING)
    (parent,) = parents(client)
    assert min(parent.data.metrics) == "Verdict/1_win_rate_vs_base"
    assert parent.data.metrics["Verdict/1_win_rate_vs_base"] == parent.data.metrics["eval/win_rate_vs_base"] == 0.6


def test_the_store_knows_the_runs_page(client, tmp_path):
    config, store = play(tmp_path / "run", PREPARED)
    (parent,) = parents(client)
    place = known(config, store)
    assert (place.server, place.run) == (tracking_uri(store), parent.info.run_id)
    assert place.charts.startswith(f"#/experiments/{place.experiment}/runs/{place.run}/model-metrics")
    before = {path: path.stat().st_mtime_ns for path in store.root.glob("tracking/mlflow-*")}
    play(tmp_path / "run", Record(stage="train", iteration=1, figures={"train/loss": 1.0}))
    assert before == {path: path.stat().st_mtime_ns for path in store.root.glob("tracking/mlflow-*")}


def test_a_place_that_cannot_be_written_fails_no_stage_and_is_tried_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mlflow.store.db.utils.create_sqlalchemy_engine", lambda uri: pytest.fail("MLflow was asked"))
    (tmp_path / "mlflow.db").mkdir()
    play(tmp_path / "run", PREPARED)
    assert "warning: MLflow at sqlite:///" in capsys.readouterr().out
