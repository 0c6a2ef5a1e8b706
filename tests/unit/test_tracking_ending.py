"""A run that fails or is ended shows so in MLflow, with its nested runs and the reason; a resumed one goes on."""

import pytest
from mlflow import MlflowClient

from sppo import stages
from sppo.config.run import resolve
from sppo.errors import ConfigError
from sppo.process.stage import playing, stage
from sppo.reporting.tracking import Record, last_error, track
from sppo.reporting.tracking.ending import begin, end
from sppo.store import keys
from sppo.store.opening import open_store
from tests.conftest import lineage_of

PREPARED = Record(stage="prepare", iteration=0)
TRAINED = Record(stage="train", iteration=1, figures={"train/loss": 1.0})
EVALUATED = Record(stage="evaluate", iteration=1, figures={"eval/win_rate_vs_base": 0.6}, finished=True)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "KFP_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tracked_folder):
    """A run in the middle of its second iteration: its configuration, store, and a client of its database."""
    config = resolve({"output_uri": str(tracked_folder), "iterations": 2})
    store = open_store(str(tracked_folder))
    (tracked_folder / "config.json").write_text(config.model_dump_json())
    begin(config, store)
    for record in (PREPARED, TRAINED, EVALUATED, TRAINED.model_copy(update={"iteration": 2})):
        track(config, store, record)
    return config, store, MlflowClient(f"sqlite:///{tracked_folder.parent}/mlflow.db")


def states(run) -> dict[str, tuple[str, str]]:
    """Status and reason of the runs in MLflow, by name."""
    client = run[2]
    experiment = client.get_experiment_by_name("sppo").experiment_id
    return {
        each.info.run_name: (each.info.status, each.data.tags.get("sppo.ended", ""))
        for each in client.search_runs([experiment])
    }


def error_of(run):
    """Whose error is kept where."""
    return run[1], keys.short(run[0].digest())


def publish(run, folder) -> None:
    (folder / "report").mkdir()
    run[1].commit(lineage_of(run[0]).report_key, folder / "report", {}, {}, 0.0)


def test_a_failed_run_is_failed_with_the_last_error(run):
    last_error.leave(*error_of(run), "train of iteration 2", "s3://x: no such object; check the key")
    end(run[1], failed=True)
    reason = "train of iteration 2: s3://x: no such object; check the key"
    assert states(run) == {
        "my-run": ("FAILED", reason),
        "iteration-1": ("FINISHED", ""),
        "iteration-2": ("FAILED", reason),
    }


def test_a_failure_without_a_word_is_told_as_such(run):
    end(run[1], failed=True)
    assert states(run)["my-run"] == ("FAILED", "ended without a message")


def test_what_a_later_try_made_up_for_is_no_reason(run):
    last_error.leave(*error_of(run), "generate of iteration 2, shard 0", "no connection")
    last_error.forget(*error_of(run), "generate of iteration 2, shard 1")
    assert last_error.last(*error_of(run))[1] == "no connection"
    last_error.forget(*error_of(run), "generate of iteration 2, shard 0")
    end(run[1], failed=True)
    assert states(run)["my-run"] == ("FAILED", "ended without a message")


def test_a_run_that_somebody_ended_is_killed(run):
    end(run[1], failed=False)
    assert states(run)["my-run"] == states(run)["iteration-2"] == ("KILLED", "somebody ended the run")


def test_a_published_run_is_finished(run, tmp_path):
    publish(run, tmp_path)
    end(run[1], failed=False)
    assert states(run)["my-run"] == ("FINISHED", "")


def test_a_resumed_run_goes_on(run):
    last_error.leave(*error_of(run), "train of iteration 2", "no connection")
    end(run[1], failed=True)
    begin(run[0], run[1])
    assert states(run)["my-run"] == ("RUNNING", "")
    assert last_error.last(*error_of(run)) == ("", "")
    track(run[0], run[1], EVALUATED.model_copy(update={"iteration": 2}))
    assert states(run)["iteration-2"] == ("FINISHED", "")


def test_who_plays_a_run_is_noted_once(run):
    (noted,) = run[1].root.glob("tracking/started-*.json")
    before = noted.stat().st_mtime_ns
    begin(run[0], run[1])
    assert noted.stat().st_mtime_ns == before


def test_a_stage_that_a_server_retries_lets_the_run_go_on(run):
    """Kubeflow retries the stage alone: prepare is not played again."""
    end(run[1], failed=True)
    track(run[0], run[1], Record(stage="evaluate", iteration=2, figures={"eval/loss": 1.0}))
    assert states(run)["my-run"] == states(run)["iteration-2"] == ("RUNNING", "")


def test_what_mlflow_lacks_is_sent_before_the_end(run, monkeypatch):
    client = run[2]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    track(run[0], run[1], EVALUATED.model_copy(update={"iteration": 2}))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    end(run[1], failed=False)
    (second,) = [each for each in client.search_runs(["1"]) if each.info.run_name == "iteration-2"]
    assert second.data.metrics["eval/win_rate_vs_base"] == 0.6 and second.info.status == "FINISHED"


def test_a_run_of_kubeflows_plugin_is_left_to_it(run, monkeypatch):
    client = run[2]
    theirs = client.create_run("0", run_name="theirs")
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs.info.run_id)
    begin(run[0], run[1])
    track(run[0], run[1], TRAINED.model_copy(update={"figures": {"train/other": 2.0}}))
    end(run[1], failed=True)
    told = {each.info.run_name: each.info.status for each in client.search_runs(["0"])}
    assert told == {"theirs": "RUNNING", "iteration-1": "FAILED"}


def test_another_run_in_the_same_place_does_not_end_this_one(run, monkeypatch, capsys):
    """One that prepare refuses, for instance, and its exit task is played all the same."""
    monkeypatch.setenv("KFP_RUN_ID", "another")
    end(run[1], failed=True)
    assert states(run)["my-run"] == ("RUNNING", "")
    assert "there is nothing to end" in capsys.readouterr().out


def test_a_run_that_never_began_has_no_end(tmp_path, capsys):
    stages.finish(str(tmp_path), "FAILED")
    assert "there is nothing to end" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("state", "status"), [("FAILED", "FAILED"), ("RUNNING", "KILLED"), ("COMPLETE", "KILLED")])
def test_what_kubeflow_says_of_the_end_counts_where_it_tells(run, state, status):
    """It says FAILED after a failure, and RUNNING or COMPLETE after success and after Terminate alike."""
    stages.finish(run[0].output_uri, state)
    assert states(run)["my-run"][0] == status


def test_mlflow_being_down_fails_no_end(run, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    end(run[1], failed=True)
    assert "warning: MLflow at http://127.0.0.1:9 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "kept"), [(ConfigError("prompts: none"), "prompts: none"), (ValueError("odd"), "ValueError: odd")]
)
def test_a_stage_leaves_its_error_and_a_later_try_takes_it_away(run, error, kept):
    fails = [True]

    @stage
    @playing
    def rank(config_path: str, iteration: int, shard: int) -> None:
        if fails:
            raise error

    config = str(run[1].root / "config.json")
    with pytest.raises((SystemExit, ValueError)):
        rank(config, 2, shard=0)
    assert last_error.last(*error_of(run)) == ("rank of iteration 2, shard 0", kept)
    fails.clear()
    rank(config, 2, shard=1)
    assert last_error.last(*error_of(run))[1] == kept
    rank(config, 2, shard=0)
    assert last_error.last(*error_of(run)) == ("", "")
