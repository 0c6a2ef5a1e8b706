"""A model that somebody exchanged together with its manifest: the next stage knows it by what an earlier one had."""

import shutil
from pathlib import Path

import pytest

from sppo.config.run import RunConfig, resolve
from sppo.errors import ConfigError
from sppo.evaluation.evaluate import evaluate
from sppo.models.fetch import fetch_policy, model_digest
from sppo.sampling.generate import generate
from sppo.store import tables
from sppo.store.local import LocalStore
from sppo.store.once import run_once
from sppo.training.train import train
from tests.conftest import NO_OTHERS, lineage_of

PAIR = {
    "prompt_id": "p", "prompt": "What?", "prompt_ids": [1, 2], **NO_OTHERS,
    "chosen": "a", "chosen_index": 0, "p_chosen": 0.7, "chosen_ids": [3], "chosen_logprobs": [-1.0],
    "rejected": "b", "rejected_index": 1, "p_rejected": 0.3, "rejected_ids": [4], "rejected_logprobs": [-1.0],
}  # fmt: skip


@pytest.fixture
def run(tmp_path, tiny_llama) -> tuple[RunConfig, LocalStore, str]:
    """A run of one iteration whose model somebody exchanges, and that model's URI."""
    store = LocalStore(tmp_path / "run")
    config = resolve({"output_uri": store.uri, "base_model": str(tiny_llama), "generate.engine": "transformers"})
    lineage = lineage_of(config)
    key = lineage.model_key(1)
    before = run_once(store, key, {"reference": model_digest(tiny_llama)}, lambda output: fill(tiny_llama, output, "1"))
    made = {"new": before.digest(), "previous": model_digest(tiny_llama), "base": model_digest(tiny_llama)}
    run_once(store, lineage.evaluation_key(1), made, lambda output: {})
    run_once(store, lineage.chunk_key(2, 0), {"model": before.digest()}, lambda output: {})
    run_once(store, lineage.model_key(2), {"reference": before.digest()}, lambda output: fill(tiny_llama, output, "2"))
    uri = f"{store.uri}/{key}"
    fetch_policy(uri)
    store.delete(key)
    run_once(store, key, before.inputs, lambda output: fill(tiny_llama, output, "exchanged"))
    fetch_policy(uri)  # its manifest fits: by itself nothing shows
    return config, store, uri


def fill(model: Path, output: Path, name: str) -> dict[str, float]:
    shutil.copytree(model, output, dirs_exist_ok=True)
    (output / "name.txt").write_text(name)
    return {}


def test_generate_samples_from_what_was_evaluated(run, tmp_path):
    config, _, uri = run
    tables.write(tmp_path / "prompts.parquet", tables.PROMPTS, [])
    made = lineage_of(config).evaluation_key(1)
    with pytest.raises(ConfigError, match=f"^{uri}: is another model than {made} was made from; put"):
        generate(config, 2, 0, 1, uri, tmp_path / "prompts.parquet")


def test_train_starts_from_what_was_sampled(run, tmp_path):
    config, _, uri = run
    tables.write(tmp_path / "pairs.parquet", tables.PAIRS, [PAIR])
    made = lineage_of(config).chunk_key(2, 0)
    with pytest.raises(ConfigError, match=f"^{uri}: is another model than {made} was made"):
        train(config, 2, uri, [tmp_path / "pairs.parquet"], {})


def test_evaluate_measures_against_what_was_trained_from(run, tmp_path):
    config, store, uri = run
    made = lineage_of(config).model_key(2)
    with pytest.raises(ConfigError, match=f"^{uri}: is another model than {made} was made from"):
        evaluate(config, 2, f"{store.uri}/{made}", uri, tmp_path / "held-out.parquet")
