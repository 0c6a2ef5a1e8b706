"""A run that goes on with other values is another run in MLflow, which has only what was done anew."""

import pytest
from mlflow import MlflowClient

from sppo.config.run import PreparedConfig, resolve
from sppo.preparing.recorded import record
from sppo.process.contents import with_contents
from sppo.reporting.tracking import Model, Publication, Record, track
from sppo.reporting.tracking.ending import begin
from sppo.store.opening import open_store

MODEL = Model(uri="/runs/x/iteration-1/model-1", sha256="ef" * 32)
TRAINED = Record(stage="train", iteration=1, made="11111111", figures={"train/loss": 12.5}, model=MODEL)
PUBLISHED = Record(
    stage="publish",
    iteration=0,
    publication=Publication(uri="/runs/x/published", best_iteration=1, sha256=MODEL.sha256, passed=True),
    finished=True,
)


def evaluated(made: str, decision: str) -> Record:
    return Record(
        stage="evaluate",
        iteration=1,
        made=made,
        figures={"eval/win_rate_vs_base": 0.6},
        model=MODEL.model_copy(update={"decision": decision}),
        finished=True,
    )


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "KFP_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def place(tracked_folder):
    return open_store(str(tracked_folder))


@pytest.fixture
def client(tracked_folder):
    return MlflowClient(f"sqlite:///{tracked_folder.parent}/mlflow.db")


def send(config, place, each):
    """Track a record of a run whose models lie in that store."""
    track(config, place, Record.model_validate_json(each.model_dump_json().replace('"/runs/x/', f'"{place.uri}/')))


def start(place, **changes):
    config = record(PreparedConfig(**resolve({"output_uri": place.uri, **changes}).asked()), place, {})
    begin(config, place)
    track(config, place, Record(stage="prepare", iteration=0, made=config.digest()[:8]))
    return config


def parents(client):
    """The runs that are nested in none, the oldest first."""
    experiment = client.get_experiment_by_name("sppo").experiment_id
    runs = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
    return [each for each in runs if "mlflow.parentRunId" not in each.data.tags]


def test_other_values_are_another_run_that_names_the_one_before(place, client):
    first = start(place)
    send(first, place, TRAINED)
    second = start(place, **{"evaluate.gate.stop_below": 0.2})
    one, two = parents(client)
    assert "sppo.continues" not in one.data.tags
    assert two.data.tags["sppo.continues"] == one.info.run_id
    assert (one.data.params["evaluate.gate.stop_below"], two.data.params["evaluate.gate.stop_below"]) == ("0.0", "0.2")
    assert start(place).continues == "" and second.continues == first.digest()[:8]
    assert len(parents(client)) == 2, "the first one goes on"


def test_a_file_that_is_named_in_other_words_is_the_same_run(place, client, tmp_path, monkeypatch, capsys):
    (tmp_path / "data.jsonl").write_text('{"prompt": "What is 1?"}\n')
    monkeypatch.chdir(tmp_path)
    for name in ("data.jsonl", "./data.jsonl"):
        config = with_contents(resolve({"output_uri": place.uri, "prompts": name, "base_model": "hf://org/model"}))
        config = record(config, place, {})
        begin(config, place)
        track(config, place, Record(stage="prepare", iteration=0, made="11111111", texts={"config.json": name}))
    send(config, place, TRAINED)
    (one,) = parents(client)
    assert one.data.params["prompts"] == "data.jsonl" and one.data.metrics["train/loss"] == 12.5
    assert "warning" not in capsys.readouterr().out


def test_what_was_not_done_again_is_logged_once(place, client):
    first = start(place)
    send(first, place, TRAINED)
    send(first, place, evaluated("22222222", "continue"))
    second = start(place, **{"evaluate.gate.stop_below": 0.2})
    send(second, place, TRAINED)
    send(second, place, evaluated("33333333", "stop"))
    send(second, place, PUBLISHED)
    one, two = parents(client)
    assert ("train/loss" in one.data.metrics, "train/loss" in two.data.metrics) == (True, False)
    assert one.data.metrics["eval/win_rate_vs_base"] == two.data.metrics["eval/win_rate_vs_base"] == 0.6
    (version,) = client.search_model_versions("name = 'sppo'")
    assert len(client.search_logged_models([one.info.experiment_id])) == 1
    assert (version.tags["sppo.decision"], version.tags["sppo.gate"]) == ("stop", "passed")


def test_what_the_run_before_could_not_send_is_sent_to_it(place, client, monkeypatch):
    first = start(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    send(first, place, TRAINED)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    second = start(place, **{"evaluate.gate.stop_below": 0.2})
    send(second, place, evaluated("33333333", "stop"))
    one, two = parents(client)
    assert ("train/loss" in one.data.metrics, "train/loss" in two.data.metrics) == (True, False)
