"""The image for clusters without GPUs: every stage of the cpu preset in it, with vLLM and the embedded models."""

import json

import pytest
from sppo_components.images import image
from sppo_pipelines.profile import STAGES

from sppo.store.opening import open_store
from tests.conftest import lineage_of
from tests.images.conftest import FORM

pytestmark = pytest.mark.timeout(3000)  # the first run downloads and installs gigabytes

SETTINGS = {
    "prepare.prompts_per_iteration": 8,
    "prepare.held_out": 4,
    "generate.max_tokens": 16,
    "generate.chunk_size": 8,
    "train.global_batch": 4,
    "evaluate.max_tokens": 16,
    "evaluate.samples": 1,
    "evaluate.instructions.count": 4,
    "evaluate.instructions.final": 4,
    "evaluate.instructions.max_tokens": 16,
}


def test_it_plays_every_stage(build, registry, cluster):
    build("cpu")
    here = cluster(dict.fromkeys(STAGES, image("cpu", registry)))
    # Empty fields mean the preset's values: SmolLM2, the embedded prompts and judge.
    prepared = here.run("prepare", {**FORM, "output_uri": f"{here.store}/run", "config": SETTINGS}, {})
    config = {"run_config": [prepared["run_config"]]}
    inputs = {**config, "prompt_tables": [prepared["prompt_tables"]]}
    base = prepared["base_uri"]
    shard = {"iteration": 1, "shard": 0, "shards": prepared["shard_count"]}
    generated = here.run("generate", {**shard, "model_uri": base}, inputs)
    ranked = here.run("rank", shard, {**config, "responses": [generated["responses"]]})
    trained = here.run("train", {"iteration": 1, "model_uri": base}, {**inputs, "pairs": [ranked["pairs"]]})
    policies = {"model_uri": trained["Output"], "previous_uri": base}
    evaluated = here.run("evaluate", {"iteration": 1, **policies}, inputs)
    published = here.run("publish", {}, config)
    store = open_store(f"{here.store}/run")
    lineage = lineage_of(store.uri)
    assert published["model_uri"] == f"{store.uri}/{lineage.published_key}"
    assert json.loads((store.fetch(lineage.published_key) / "config.json").read_text())["dtype"] == "bfloat16"
    figures = store.manifest(lineage.model_key(1)).figures
    assert figures["train/steps"] == 2
    assert figures["train/reference_recomputed"] == 0, "vLLM's log-probabilities are the trainer's"
    assert 0 <= store.manifest(lineage.evaluation_key(1)).figures["eval/win_rate_vs_base"] <= 1
    assert here.path(evaluated["report"]).read_text().lstrip().lower().startswith("<!doctype html")
