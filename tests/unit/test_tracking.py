import pytest
from mlflow import MlflowClient

from sppo.config import flatten, resolve
from sppo.store import open_store
from sppo.tracking import Dataset, Model, Publication, Record, track, tracking_uri

PROMPTS = Dataset(name="prompts-1", sha256="ab" * 32, source="/runs/x/prompts", rows=37, context="training")
HELD_OUT = Dataset(
    name="held-out", sha256="cd" * 32, source="s3://x/held-out", rows=8, context="evaluation", measures="eval/"
)
MODEL = Model(uri="/runs/x/iteration-1/model", sha256="ef" * 32)
JUDGED = MODEL.model_copy(update={"decision": "continue"})
TRAINED = Record(
    stage="train",
    iteration=1,
    figures={"train/loss": 12.5, "generate/tokens_per_second": 100.0},
    steps=[{"step": 0, "loss": 14.0}, {"step": 1, "loss": 11.0}],
    system=[{"time": 1e12, "cpu_utilization_percentage": 50.0}, {"time": 1e12 + 2000, "cpu_utilization_percentage": 90.0}],
    tables={"pairs.json": [{"prompt": "Hi?", "p_chosen": 0.75}, {"prompt": "Ho?", "p_chosen": 0.5}]},
    datasets=[PROMPTS],
    model=MODEL,
)
EVALUATED = Record(
    stage="evaluate",
    iteration=1,
    figures={"eval/win_rate_vs_base": 0.6, "gate/continue": 1.0},
    texts={"report.md": "# Run"},
    tables={"samples.json": [{"prompt": "Hi?", "new": "Hello."}]},
    datasets=[HELD_OUT],
    model=JUDGED,
    note="continue: it is better",
    finished=True,
)
PUBLISHED = Record(
    stage="publish",
    iteration=0,
    figures={"publish/passed": 1.0},
    publication=Publication(uri="/runs/x/published/model", best_iteration=1, passed=True),
    finished=True,
)
PREPARED = Record(
    stage="prepare",
    iteration=0,
    figures={"prepare/kept": 37.0},
    texts={"config.json": "{}"},
    tags={"mlflow.source.git.commit": "c0ffee"},
    datasets=[PROMPTS, HELD_OUT],
)
EVERYTHING = [PREPARED, TRAINED, EVALUATED, PUBLISHED]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables, made once: creating them takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def run(tmp_path, empty_database):
    """A run's configuration, its store, and a client of its database."""
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    config = resolve({"output_uri": str(folder), "iterations": 2, "train.eta": 7.0})
    return config, open_store(str(folder)), MlflowClient(f"sqlite:///{folder}/mlflow.db")


def send(run, *records):
    for record in records:
        track(run[0], run[1], record)


def snapshot(client) -> dict:
    """Everything of every run that a person could see, but not when."""
    found = {}
    for experiment in client.search_experiments():
        for each in client.search_runs([experiment.experiment_id]):
            history = {
                name: [(m.step, m.value) for m in client.get_metric_history(each.info.run_id, name)]
                for name in each.data.metrics
            }
            artifacts = sorted(a.path for a in client.list_artifacts(each.info.run_id))
            found[each.info.run_id] = (each.info.status, each.data.params, each.data.tags, history, artifacts)
    return found


def only(client, **tags):
    condition = " and ".join(f"tags.`{key.replace('_', '.')}` = '{value}'" for key, value in tags.items())
    experiment = client.get_experiment_by_name("sppo")
    (found,) = client.search_runs([experiment.experiment_id], condition)
    return found


def parent_of(client):
    runs = client.search_runs([client.get_experiment_by_name("sppo").experiment_id])
    (found,) = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    return found


def test_a_run_has_a_parent_and_a_nested_run_an_iteration(run):
    config, _, client = run
    send(run, *EVERYTHING)
    parent, nested = parent_of(client), only(client, sppo_iteration="1")
    assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.info.run_name, nested.info.run_name) == ("my-run", "iteration-1")
    assert (parent.info.status, nested.info.status) == ("FINISHED", "FINISHED")
    assert parent.data.params["train.eta"] == "7.0"
    assert parent.data.params["evaluate.gate.stop_below"] == "0.0"
    assert parent.data.tags["sppo.config_digest"] == config.digest()


def test_figures_are_charted_by_iteration_on_the_parent_and_by_step_within(run):
    _, _, client = run
    second = TRAINED.model_copy(update={"iteration": 2, "figures": {"train/loss": 9.0}})
    send(run, PREPARED, TRAINED, second)
    parent, nested = parent_of(client).info.run_id, only(client, sppo_iteration="1").info.run_id
    assert [(m.step, m.value) for m in client.get_metric_history(parent, "train/loss")] == [(1, 12.5), (2, 9.0)]
    assert [(m.step, m.value) for m in client.get_metric_history(nested, "train/loss")] == [(1, 12.5)]
    assert [(m.step, m.value) for m in client.get_metric_history(nested, "train/step_loss")] == [(0, 14.0), (1, 11.0)]
    assert client.get_metric_history(parent, "train/step_loss") == []


def test_texts_and_the_registered_model_are_there(run):
    _, _, client = run
    send(run, *EVERYTHING)
    nested = only(client, sppo_iteration="1").info.run_id
    assert [artifact.path for artifact in client.list_artifacts(nested)] == ["report.md"]
    version = client.get_model_version_by_alias("sppo", "candidate")
    assert version.run_id == parent_of(client).info.run_id
    assert version.tags == {"sppo.uri": "/runs/x/published/model"}


def test_a_model_that_fails_its_gate_is_registered_without_the_alias(run):
    _, _, client = run
    send(run, PUBLISHED.model_copy(update={"passed": False}))
    assert len(client.search_model_versions("name = 'sppo'")) == 1
    assert client.get_registered_model("sppo").aliases == {}


def test_sending_everything_twice_changes_nothing(run):
    _, store, client = run
    send(run, *EVERYTHING)
    before = snapshot(client)
    send(run, *EVERYTHING)
    assert snapshot(client) == before
    for record in EVERYTHING:  # as if the store had forgotten that they were sent
        store.write(record.key(), record.model_dump_json().encode())
    send(run, EVERYTHING[-1])
    assert snapshot(client) == before
    assert len(client.search_model_versions("name = 'sppo'")) == 1


def test_what_a_dead_server_missed_is_sent_later(run, monkeypatch, capsys):
    _, store, client = run
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    send(run, PREPARED, TRAINED)
    assert "warning: MLflow at http://127.0.0.1:9 failed" in capsys.readouterr().out
    assert [Record.model_validate_json(store.read(record.key())).sent for record in (PREPARED, TRAINED)] == [
        False,
        False,
    ]
    assert client.get_experiment_by_name("sppo") is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    send(run, EVALUATED)
    nested = only(client, sppo_iteration="1")
    assert nested.data.metrics["train/loss"] == 12.5 and nested.data.metrics["eval/win_rate_vs_base"] == 0.6
    assert parent_of(client).data.params["train.eta"] == "7.0"
    assert all(Record.model_validate_json(store.read(r.key())).sent for r in (PREPARED, TRAINED, EVALUATED))


def test_passwords_in_the_address_are_not_printed(run, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    send(run, PREPARED)
    printed = capsys.readouterr()
    assert "warning: MLflow at http://127.0.0.1:9 failed" in printed.out
    assert "secret" not in printed.out + printed.err


def test_a_record_that_changed_is_sent_again(run):
    _, _, client = run
    send(run, EVALUATED, EVALUATED.model_copy(update={"texts": {"report.md": "# Run", "more.md": "x"}}))
    nested = only(client, sppo_iteration="1").info.run_id
    assert [artifact.path for artifact in client.list_artifacts(nested)] == ["more.md", "report.md"]


@pytest.mark.parametrize("experiment", ["sppo", "of-the-cluster"])
def test_the_run_that_kubeflow_opened_is_the_parent(run, monkeypatch, experiment):
    """Its plugin nests a run for each task; the root of them is the pipeline's run, whatever its experiment."""
    _, _, client = run
    place = client.create_experiment(experiment)
    root = client.create_run(place, run_name="kfp run").info.run_id
    task = client.create_run(place, tags={"mlflow.parentRunId": root}, run_name="kfp task").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", task)
    send(run, PREPARED, TRAINED)
    assert client.get_run(root).data.params["train.eta"] == "7.0"
    assert client.get_run(root).data.metrics["train/loss"] == 12.5
    (nested,) = client.search_runs([place], "tags.`sppo.iteration` = '1'")
    assert nested.data.tags["mlflow.parentRunId"] == root
    assert client.get_run(task).data.metrics == {}


def test_two_runs_with_the_same_configuration_stay_apart(run, tmp_path, monkeypatch):
    config, _, client = run
    send(run, PREPARED)
    other = resolve({**config.model_dump(), "output_uri": str(tmp_path / "it's another")})
    store = open_store(other.output_uri)
    store.root.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(run[1]))
    track(other, store, PREPARED)
    track(other, store, PREPARED.model_copy(update={"figures": {"prepare/kept": 1.0}}))
    runs = client.search_runs([client.get_experiment_by_name("sppo").experiment_id])
    assert sorted(each.info.run_name for each in runs) == ["it's another", "my-run"]


def test_a_store_in_s3_has_no_database_beside_it(s3, capsys):
    config = resolve({"output_uri": s3.uri})
    store = open_store(s3.uri)
    assert tracking_uri(store) is None
    track(config, store, PREPARED)
    assert "MLFLOW_TRACKING_URI is not set" in capsys.readouterr().out
    assert Record.model_validate_json(store.read(PREPARED.key())) == PREPARED


def test_nested_values_become_dotted_names():
    assert flatten({"a": 1, "b": {"c": {"d": 2}, "e": None}}) == {"a": 1, "b.c.d": 2, "b.e": None}
