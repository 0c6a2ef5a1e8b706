"""What a whole run must have done, checked by its figures."""

import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from sppo.algorithm.objectives import sppo
from sppo.algorithm.objectives.base import loss_at_start
from sppo.reporting.report import collect
from sppo.seeds import derive_seed
from sppo.store import keys, tables
from sppo.store.base import Manifest
from sppo.store.opening import open_store
from sppo.training.train import plan, read_pairs
from sppo.training.update import targets_of
from tests.conftest import lineage_of


def manifest(folder: Path, key: str) -> Manifest:
    found = open_store(str(folder)).manifest(key)
    assert found is not None
    return found


def training_log(folder: Path, iteration: int) -> list[dict[str, float]]:
    text = (folder / lineage_of(folder).model_key(iteration) / keys.TRAINING_LOG_FILE).read_text()
    return [json.loads(line) for line in text.splitlines()]


def pairs_of(folder: Path, iteration: int) -> list[dict[str, object]]:
    return read_pairs([folder / lineage_of(folder).preferences_key(iteration, 0, 1) / keys.PAIRS_FILE])


def test_prompt_parts_are_disjoint(whole_run: Path) -> None:
    names = [keys.prompts_file(1), keys.prompts_file(2), keys.HELD_OUT_FILE]
    folder = whole_run / lineage_of(whole_run).prepared_key
    parts = [{row["prompt_id"] for row in tables.read(folder / name, tables.PROMPTS)} for name in names]
    assert [len(part) for part in parts] == [8, 8, 4]
    assert len(set.union(*parts)) == 20


@pytest.mark.parametrize("iteration", [1, 2])
def test_first_loss_is_its_closed_form(whole_run: Path, iteration: int) -> None:
    config = lineage_of(whole_run).config
    first = plan(pairs_of(whole_run, iteration), config.train, derive_seed(config.seed, "train", iteration))[0]
    expected = loss_at_start(sppo, map(targets_of, first.pairs), config.train)
    row = training_log(whole_run, iteration)[0]
    # The log-ratios of the first step are the differences between sampler and trainer: the loss is a squared distance,
    # so its root moves by no more than their size.
    assert row["mean_abs_log_ratio"] < 2.0
    assert row["loss"] ** 0.5 == pytest.approx(expected**0.5, abs=2 * row["mean_abs_log_ratio"], rel=0.01)


@pytest.mark.parametrize("iteration", [1, 2])
def test_sampler_and_trainer_agree_on_the_reference(whole_run: Path, iteration: int) -> None:
    lineage = lineage_of(whole_run)
    figures = manifest(whole_run, lineage.model_key(iteration)).figures
    assert 0 < figures["train/reference_audit_mean_abs"] < lineage.config.train.audit_tolerance
    assert figures["train/reference_recomputed"] == 0


@pytest.mark.parametrize("iteration", [1, 2])
def test_training_moves_the_policy_as_the_targets_say(whole_run: Path, iteration: int) -> None:
    log = training_log(whole_run, iteration)
    assert len(log) == 4
    assert log[-1]["mean_abs_log_ratio"] > log[0]["mean_abs_log_ratio"]
    pairs = pairs_of(whole_run, iteration)
    assert all(pair["p_chosen"] > pair["p_rejected"] for pair in pairs)
    assert all(
        len(pair[f"{role}_ids"]) == len(pair[f"{role}_logprobs"]) for pair in pairs for role in ("chosen", "rejected")
    )


def test_second_iteration_starts_from_the_first_ones_model(whole_run: Path) -> None:
    lineage = lineage_of(whole_run)
    first = manifest(whole_run, lineage.model_key(1))
    assert manifest(whole_run, lineage.model_key(2)).inputs["reference"] == first.digest()
    assert manifest(whole_run, lineage.chunk_key(2, 0)).inputs["model"] == first.digest()


def test_published_model_loads_and_answers(whole_run: Path) -> None:
    lineage = lineage_of(whole_run)
    folder = whole_run / lineage.published_key
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    # Where the run computed in float32, bfloat16 may lose what so few steps trained.
    assert model.dtype == getattr(torch, collect(lineage.config, lineage.store).published_dtype)
    messages = [{"role": "user", "content": "Name a colour."}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert output.shape[1] > ids["input_ids"].shape[1]
    trained = manifest(whole_run, lineage.model_key(2)).digest()
    assert trained != manifest(whole_run, lineage.model_key(1)).digest()


def test_mlflow_has_the_run_and_its_iterations(whole_run: Path) -> None:
    client = MlflowClient(f"sqlite:///{whole_run.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("sppo").experiment_id
    # Runs of other tests lie beside it.
    (parent,) = client.search_runs([experiment], f"tags.`sppo.output_uri` = '{whole_run}'")
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len(nested) == 2
    assert {run.info.status for run in (parent, *nested)} == {"FINISHED"}
    history = client.get_metric_history(parent.info.run_id, "eval/win_rate_vs_base")
    assert sorted(metric.step for metric in history) == [1, 2]
    committed = manifest(whole_run, lineage_of(whole_run).evaluation_key(2)).figures["eval/win_rate_vs_base"]
    assert next(metric.value for metric in history if metric.step == 2) == committed
    assert parent.data.params["train.eta"] == "1000.0"
    last = next(run for run in nested if run.data.tags["sppo.iteration"] == "2")
    versions = {version.run_id: version for version in client.search_model_versions("name = 'sppo'")}
    assert versions[last.info.run_id].tags["sppo.uri"] == f"{whole_run}/{lineage_of(whole_run).model_key(2)}"
    artifacts = {file.path for file in client.list_artifacts(last.info.run_id)}
    assert {"report.html", "report.md", "samples.json", "pairs.json", "verdict.txt"} <= artifacts
    assert {found.dataset.name for found in last.inputs.dataset_inputs} == {
        *("prompts-2", "pairs-2", "held-out", "instructions")
    }
    assert "system/train/cpu_utilization_percentage" in last.data.metrics
