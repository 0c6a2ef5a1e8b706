"""What the stages' records say: from what is committed, from the environment, and of the machine."""

import json
import os
import pwd
import time

import pyarrow.parquet as pq
import pytest

from sppo.config.run import resolve
from sppo.evaluation.evaluate import Evaluation
from sppo.preparing.recorded import recorded_config
from sppo.reporting.publish import Published
from sppo.reporting.report import Sample, checks, collect, headline
from sppo.reporting.report.verdict import gate_sentence
from sppo.reporting.tracking.origin import origin_tags, user
from sppo.reporting.tracking.stage_records import SHOWN_PAIRS, evaluated, prepared, published, trained
from sppo.reporting.tracking.system import sampled
from sppo.store import keys
from sppo.store.base import file_sha256
from sppo.store.once import run_once
from sppo.store.opening import open_store
from tests.conftest import lineage_of, prepare

ORIGIN = ("SPPO_REVISION", "KFP_RUN_ID", "SPPO_IMAGES", "SPPO_KFP_URL")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ORIGIN:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tiny_llama, write_prompts, tmp_path):
    """A prepared run's configuration and store, with a model of iteration 1 that is only a training log."""
    config = resolve(
        {
            "base_model": str(tiny_llama),
            "prompts": str(write_prompts([f"What is {i} + {i}?" for i in range(30)])),
            "output_uri": str(tmp_path / "run"),
            "iterations": 2,
            "prepare.held_out": 6,
            "prepare.prompts_per_iteration": 0,
            "prepare.max_prompt_tokens": 100,
            "generate.max_tokens": 20,
            "evaluate.max_tokens": 20,
            "evaluate.instructions.count": 0,
            "evaluate.instructions.final": 0,
        }
    )
    prepare(config)
    store, config = open_store(config.output_uri), recorded_config(config.output_uri)

    def work(output):
        (output / keys.TRAINING_LOG_FILE).write_text('{"step": 0, "loss": 9.0}\n{"step": 1, "loss": 8.0}\n')
        return {"train/loss": 8.5}

    run_once(store, lineage_of(config).model_key(1), {"pairs": "ab" * 32}, work)
    return config, store


def test_prepare_tells_every_prompt_table_by_its_content(run):
    config, store = run
    record = prepared(config, store)
    files = {"prompts-1": "iteration-1.parquet", "prompts-2": "iteration-2.parquet", "held-out": "held-out.parquet"}
    assert [dataset.name for dataset in record.datasets] == list(files)
    for dataset in record.datasets:
        path = store.root / lineage_of(config).prepared_key / files[dataset.name]
        assert (dataset.sha256, dataset.source) == (file_sha256(path), str(path))
        assert dataset.rows == pq.read_metadata(path).num_rows
    assert [dataset.context for dataset in record.datasets] == ["training", "training", "evaluation"]
    assert record.figures["prepare/kept"] == 30
    assert json.loads(record.texts["config.json"])["iterations"] == 2


def test_train_tells_its_pairs_its_curve_and_its_model(run):
    config, store = run
    lineage = lineage_of(config)
    row = {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "p_chosen": 0.75, "p_rejected": 0.25}
    pairs = [{**row, "chosen_ids": [1, 2]}] * (SHOWN_PAIRS + 1)
    record = trained(lineage, 1, pairs, [{"time": 1.0, "cpu_utilization_percentage": 99.0}])
    assert record.steps == [{"step": 0, "loss": 9.0}, {"step": 1, "loss": 8.0}]
    assert record.tables == {"pairs.json": [row] * SHOWN_PAIRS}
    assert [(d.name, d.sha256, d.rows) for d in record.datasets][1:] == [("pairs-1", "ab" * 32, SHOWN_PAIRS + 1)]
    assert record.model.uri == f"{store.uri}/{lineage.model_key(1)}"
    assert record.model.sha256 == store.manifest(lineage.model_key(1)).digest()
    assert record.model.decision == "" and not record.finished


def test_evaluate_tells_its_verdict_and_shows_answers_side_by_side(run):
    config, store = run
    sample = Sample("p1", "Hi?", "Base.", "Previous.", "New.", 0.5, 0.625, 0.5)
    found = Evaluation("stop", "it was the last", "m", {"gate/continue": 0.0}, store.root)
    record = evaluated(lineage_of(config), 1, [sample], found, {"report.md": "# Run"}, [])
    assert record.note == "stop: it was the last"
    assert record.texts == {"report.md": "# Run", "verdict.txt": "stop: it was the last\n"}
    assert record.tables["samples.json"][0]["new"] == "New." and record.model.decision == "stop"
    assert [(d.name, d.measures) for d in record.datasets] == [("held-out", "eval/")]
    assert record.finished


@pytest.mark.parametrize(
    ("decisions", "best", "passed"), [(("continue", "stop"), 2, True), (("keep-previous",) * 2, 0, False)]
)
def test_publish_tells_which_model_won_and_the_verdict(play_run, tmp_path, decisions, best, passed):
    config, store, _ = play_run(decisions=decisions)
    report = collect(config, store)
    page = tmp_path / "report"
    page.write_text("größer")
    record = published(lineage_of(config), Published("/m", page, page, report, {"publish/best_iteration": float(best)}))
    assert (record.publication.best_iteration, record.publication.passed) == (best, passed)
    assert record.texts == {"report.html": "größer", "report.md": "größer"}
    shown = record.note.replace("\\", "")
    assert all(said in shown for said in (headline(report), gate_sentence(report), *(c.said for c in checks(report))))
    assert len(record.note) < 5000, "MLflow's tags have at most 8000 characters"


def test_a_pod_tells_the_run_of_kubeflow_and_the_images(monkeypatch):
    images = {"train": "registry.example/train@sha256:abc"}
    given = ("c0ffee", "1234-5678", json.dumps(images), "https://user:secret@kubeflow.example/pipeline/")
    for name, value in zip(ORIGIN, given, strict=True):
        monkeypatch.setenv(name, value)
    page = "https://kubeflow.example/pipeline/#/runs/details/1234-5678"
    assert origin_tags() == {
        "mlflow.source.git.commit": "c0ffee",
        "mlflow.source.name": page,
        "mlflow.source.type": "JOB",
        "sppo.kfp_run_id": "1234-5678",
        "sppo.kfp_run_url": page,
        "sppo.image.train": "registry.example/train@sha256:abc",
    }


def test_outside_a_pod_no_image_runs(monkeypatch):
    monkeypatch.setenv("SPPO_IMAGES", '{"train": "registry.example/train"}')
    tags = origin_tags()
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("sppo run", "LOCAL")
    assert set(tags) == {"mlflow.source.git.commit", "mlflow.source.name", "mlflow.source.type"}


def test_a_pod_whose_kubeflow_page_is_not_known_tells_the_runs_id(monkeypatch):
    monkeypatch.setenv("KFP_RUN_ID", "1234-5678")
    assert origin_tags()["mlflow.source.name"] == "Kubeflow run 1234-5678"


def test_a_run_is_of_whom_the_server_or_the_machine_knows(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "sppo")
    assert user() == "sppo"
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert user() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(os, "getuid", lambda: 1_000_690_000)  # as OpenShift gives a container
    assert user() == "1000690000"


def test_the_machine_is_sampled_with_a_bounded_number_of_samples():
    with sampled(interval=0.01, most=8) as samples:
        time.sleep(0.6)
    assert 1 < len(samples) < 8
    for sample in samples:
        assert 0 <= sample["cpu_utilization_percentage"] <= 100
        assert 0 < sample["system_memory_usage_percentage"] < 100 and sample["system_memory_usage_megabytes"] > 0
    times = [sample["time"] for sample in samples]
    assert times == sorted(times) and times[-1] - times[0] > 300, "thinned, not cut off"


def test_a_stage_that_fails_is_not_sampled_on():
    with pytest.raises(ValueError, match="wrong"), sampled(interval=0.01) as samples:
        time.sleep(0.05)
        raise ValueError("wrong")
    seen = len(samples)
    time.sleep(0.05)
    assert len(samples) == seen
