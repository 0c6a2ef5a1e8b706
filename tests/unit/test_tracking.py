import json

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sppo.config.run import flatten, resolve
from sppo.reporting.tracking import (
    Dataset,
    Model,
    Publication,
    Record,
    track,
    tracking_uri,
)
from sppo.store.opening import open_store

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
    system=[
        {"time": 1e12, "cpu_utilization_percentage": 50.0},
        {"time": 1e12 + 2000, "cpu_utilization_percentage": 90.0},
    ],
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
    publication=Publication(uri="/runs/x/published", best_iteration=1, sha256=MODEL.sha256, passed=True),
    note="**Better than the base.**",
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


@pytest.fixture
def run(tracked_folder):
    """A run's configuration, its store, and a client of its database."""
    config = resolve({"output_uri": str(tracked_folder), "iterations": 2, "train.eta": 7.0})
    return config, open_store(str(tracked_folder)), MlflowClient(f"sqlite:///{tracked_folder.parent}/mlflow.db")


def send(run, *records):
    for record in records:
        track(run[0], run[1], placed(record, run[1]))


def placed(record, store):
    """A record as a run has it whose models lie in that store."""
    return Record.model_validate_json(record.model_dump_json().replace('"/runs/x/', f'"{store.uri}/'))


def forget(store):
    """As if it was interrupted before it noted that the records were sent."""
    for record in EVERYTHING:
        kept = Record.model_validate_json(store.read(record.key()))
        store.write(record.key(), kept.model_copy(update={"sent": False}).model_dump_json().encode())


def refuse(*arguments, **options):
    raise MlflowException("no more room")


def aliases(client):
    return {name: str(version) for name, version in client.get_registered_model("sppo").aliases.items()}


def snapshot(client) -> dict:
    """Everything of every run, model and version that a person could see, and when it was measured."""
    found = {}
    for experiment in client.search_experiments():
        for each in client.search_runs([experiment.experiment_id]):
            history = {
                name: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(each.info.run_id, name)]
                for name in each.data.metrics
            }
            artifacts = sorted(a.path for a in client.list_artifacts(each.info.run_id))
            inputs = sorted((i.dataset.name, i.dataset.digest) for i in each.inputs.dataset_inputs)
            outputs = [output.model_id for output in each.outputs.model_outputs]
            head = (each.info.status, each.data.params, each.data.tags)
            found[each.info.run_id] = (*head, history, artifacts, inputs, outputs)
        for model in client.search_logged_models([experiment.experiment_id]):
            figures = sorted((m.key, m.value, m.step, m.timestamp) for m in model.metrics or [])
            found[model.model_id] = (model.name, model.tags, figures)
    for version in client.search_model_versions(""):
        found[f"version {version.version}"] = (version.run_id, version.source, version.tags, version.aliases)
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


def test_artifacts_are_there_and_tables_can_be_compared(run):
    _, _, client = run
    send(run, *EVERYTHING)
    nested = only(client, sppo_iteration="1").info
    names = [artifact.path for artifact in client.list_artifacts(nested.run_id)]
    assert names == ["pairs.json", "report.md", "samples.json"]
    table = client.load_table(nested.experiment_id, "pairs.json", [nested.run_id])
    assert table.to_dict("records") == [{"prompt": "Hi?", "p_chosen": 0.75}, {"prompt": "Ho?", "p_chosen": 0.5}]
    tables = json.loads(client.get_run(nested.run_id).data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": name, "type": "table"} for name in ("pairs.json", "samples.json")]


def test_the_head_of_a_run_tells_its_verdict_and_where_it_comes_from(run):
    _, _, client = run
    send(run, *EVERYTHING)
    assert only(client, sppo_iteration="1").data.tags["mlflow.note.content"] == "continue: it is better"
    assert parent_of(client).data.tags["mlflow.source.git.commit"] == "c0ffee"


def test_datasets_are_logged_by_content(run):
    _, _, client = run
    send(run, *EVERYTHING)
    parent, nested = parent_of(client), only(client, sppo_iteration="1")
    for each in (parent, nested):
        logged = {found.dataset.name: found for found in each.inputs.dataset_inputs}
        assert {name: found.dataset.digest for name, found in logged.items()} == {
            "prompts-1": "ab" * 16,
            "held-out": "cd" * 16,
        }
        assert [tag.value for tag in logged["held-out"].tags if tag.key == "mlflow.data.context"] == ["evaluation"]
        source = {"uri": "s3://x/held-out", "sha256": "cd" * 32}
        assert json.loads(logged["held-out"].dataset.source) == source


def test_the_machine_is_charted_where_mlflow_charts_its_own_system_metrics(run):
    _, _, client = run
    send(run, TRAINED)
    nested = only(client, sppo_iteration="1").info.run_id
    history = client.get_metric_history(nested, "system/train/cpu_utilization_percentage")
    assert [(m.step, m.value, m.timestamp) for m in history] == [(0, 50.0, 10**12), (1, 90.0, 10**12 + 2000)]


def test_an_iteration_has_a_model_with_the_figures_that_it_was_measured_by(run):
    _, store, client = run
    send(run, *EVERYTHING)
    nested = only(client, sppo_iteration="1")
    (model,) = client.search_logged_models([nested.info.experiment_id])
    assert (model.name, model.source_run_id) == ("my-run-iteration-1", nested.info.run_id)
    assert model.tags["sppo.uri"] == f"{store.uri}/iteration-1/model" and model.tags["sppo.sha256"] == MODEL.sha256
    assert [output.model_id for output in nested.outputs.model_outputs] == [model.model_id]
    figures = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics}
    assert figures == {"eval/win_rate_vs_base": (0.6, "held-out"), "gate/continue": (1.0, None)}
    version = client.get_model_version_by_alias("sppo", "candidate")
    assert (version.run_id, version.source) == (nested.info.run_id, f"models:/{model.model_id}")


def test_every_stage_is_a_process_of_its_own(run):
    _, _, client = run
    for record in EVERYTHING:
        send(run, record)
        mlflow.set_tracking_uri(None)
    assert aliases(client) == {"candidate": "1", "champion": "1"}


def test_the_candidate_is_the_last_and_the_champion_the_one_that_the_gate_let_through(run):
    _, store, client = run
    second = EVALUATED.model_copy(
        update={"iteration": 2, "model": JUDGED.model_copy(update={"decision": "keep-previous"})}
    )
    send(run, PREPARED, TRAINED, EVALUATED)
    assert aliases(client) == {"candidate": "1"}
    send(run, second)
    assert aliases(client) == {"candidate": "2"}
    send(run, PUBLISHED)
    assert aliases(client) == {"candidate": "2", "champion": "1"}
    tags = client.get_model_version("sppo", "1").tags
    assert (tags["sppo.published_uri"], tags["sppo.gate"], tags["sppo.decision"]) == (
        f"{store.uri}/published",
        "passed",
        "continue",
    )
    assert parent_of(client).data.tags["mlflow.note.content"] == PUBLISHED.note


def test_a_model_that_fails_its_gate_is_no_champion(run):
    _, _, client = run
    publication = PUBLISHED.publication.model_copy(update={"passed": False})
    send(run, EVALUATED, PUBLISHED.model_copy(update={"publication": publication}))
    assert aliases(client) == {"candidate": "1"}
    assert client.get_model_version("sppo", "1").tags["sppo.gate"] == "failed"


def test_the_base_model_is_no_champion(run):
    _, _, client = run
    publication = PUBLISHED.publication.model_copy(update={"best_iteration": 0, "passed": False})
    send(run, EVALUATED, PUBLISHED.model_copy(update={"publication": publication}))
    assert aliases(client) == {"candidate": "1"}
    assert parent_of(client).info.status == "FINISHED"


def test_what_is_sent_again_takes_no_alias_from_whom_a_person_gave_it(run):
    _, store, client = run
    send(run, *EVERYTHING)
    other = client.create_model_version("sppo", "s3://elsewhere/model").version
    for alias in ("candidate", "champion"):
        client.set_registered_model_alias("sppo", alias, other)
    forget(store)
    send(run, PUBLISHED)
    assert aliases(client) == {"candidate": str(other), "champion": str(other)}


def test_a_model_that_was_left_half_made_is_made_anew(run, monkeypatch):
    """Its record is made on the server before the file that it is registered by."""
    _, _, client = run
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", refuse)
        send(run, TRAINED)
    send(run, EVALUATED)
    (model,) = client.search_logged_models([only(client, sppo_iteration="1").info.experiment_id])
    assert model.status == "READY" and aliases(client) == {"candidate": "1"}


def test_sending_everything_twice_changes_nothing(run):
    _, store, client = run
    send(run, *EVERYTHING)
    before = snapshot(client)
    send(run, *EVERYTHING)
    assert snapshot(client) == before
    forget(store)
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


@pytest.mark.parametrize("scheme", ["http", "nonsense"])
def test_passwords_in_the_address_are_not_printed(run, monkeypatch, capsys, caplog, scheme):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://user:se@cret@127.0.0.1:9")
    send(run, PREPARED)
    printed = capsys.readouterr()
    assert f"warning: MLflow at {scheme}://127.0.0.1:9 failed" in printed.out
    assert "cret" not in printed.out + printed.err + caplog.text


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("mysql://user:secret@127.0.0.1:9/db", "No module named 'MySQLdb'; install it, or name another in the address"),
        ("postgresql+psycopg2://user:secret@127.0.0.1:port/db", "invalid literal for int() with base 10: 'port'"),
        ("http://[bad", "Invalid IPv6 URL"),
    ],
)
def test_an_address_that_cannot_be_one_fails_no_stage(run, monkeypatch, capsys, uri, reason):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    send(run, PREPARED)
    printed = capsys.readouterr().out
    assert "warning: MLflow at " in printed and f"failed ({reason}" in printed and "secret" not in printed


def test_a_dead_store_of_artifacts_fails_no_stage(run, monkeypatch, capsys):
    """Where no server stands between, the client itself writes them to S3."""
    _, store, client = run
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    client.create_experiment("sppo", artifact_location="s3://nowhere/artifacts")
    send(run, PREPARED)
    assert "warning: MLflow at sqlite:" in capsys.readouterr().out
    assert not Record.model_validate_json(store.read(PREPARED.key())).sent


def test_a_record_that_changed_is_sent_again(run):
    _, _, client = run
    send(run, EVALUATED, EVALUATED.model_copy(update={"texts": {"report.md": "# Run", "more.md": "x"}}))
    nested = only(client, sppo_iteration="1").info.run_id
    assert [artifact.path for artifact in client.list_artifacts(nested)] == ["more.md", "report.md", "samples.json"]


@pytest.mark.parametrize("experiment", ["sppo", "of-the-cluster"])
def test_the_run_that_kubeflow_opened_is_the_parent(run, tmp_path, monkeypatch, experiment):
    """Its plugin nests a run for each task; the root of them is the pipeline's run, whatever its experiment."""
    _, _, client = run
    place = client.create_experiment(experiment, artifact_location=(tmp_path / "artifacts").as_uri())
    root = client.create_run(place, run_name="kfp run").info.run_id
    task = client.create_run(place, tags={"mlflow.parentRunId": root}, run_name="kfp task").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", task)
    send(run, PREPARED, TRAINED)
    data = client.get_run(root).data
    assert (data.params["train.eta"], data.metrics["train/loss"]) == ("7.0", 12.5)
    (nested,) = client.search_runs([place], "tags.`sppo.iteration` = '1'")
    assert nested.data.tags["mlflow.parentRunId"] == root
    assert client.get_run(task).data.metrics == {}
    send(run, PUBLISHED)
    assert client.get_run(root).info.status == "RUNNING", "its plugin ends it"


def test_what_a_later_stage_makes_comes_from_where_the_first_says_that_the_run_does(run):
    origin = {"mlflow.source.name": "Kubeflow run 7", "mlflow.source.type": "JOB", "sppo.kfp_run_id": "7"}
    send(run, PREPARED.model_copy(update={"tags": origin}), TRAINED)
    (logged,) = run[2].search_logged_models([(nested := only(run[2], sppo_iteration="1")).info.experiment_id])
    assert origin.items() <= nested.data.tags.items() and origin.items() <= logged.tags.items()


def test_a_store_in_s3_has_no_database_beside_it(s3, capsys):
    config = resolve({"output_uri": s3.uri})
    store = open_store(s3.uri)
    assert tracking_uri(store) is None
    track(config, store, PREPARED)
    assert "MLFLOW_TRACKING_URI is not set" in capsys.readouterr().out
    kept = Record.model_validate_json(store.read(PREPARED.key()))
    assert kept.time > 0 and kept.model_copy(update={"time": 0}) == PREPARED


def test_nested_values_become_dotted_names():
    assert flatten({"a": 1, "b": {"c": {"d": 2}, "e": None}}) == {"a": 1, "b.c.d": 2, "b.e": None}
