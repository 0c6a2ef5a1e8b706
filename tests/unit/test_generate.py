import shutil

import pytest
from safetensors.torch import load_file, save_file

from sppo.config.run import resolve
from sppo.errors import RunFailedError
from sppo.preparing.chat import encode_prompt, load_tokenizer
from sppo.sampling.generate import figures, generate
from sppo.sampling.transformers_engine import TransformersEngine
from sppo.store import tables
from sppo.store.opening import open_store
from tests.conftest import lineage_of


@pytest.fixture
def prompts(tiny_llama, tmp_path):
    tokenizer = load_tokenizer(tiny_llama)
    path = tmp_path / "prompts.parquet"
    texts = [f"What is {i}?" for i in range(10)]
    rows = [
        {"prompt_id": f"p{i}", "prompt": text, "prompt_ids": encode_prompt(tokenizer, text)}
        for i, text in enumerate(texts)
    ]
    tables.write(path, tables.PROMPTS, rows)
    return path


def configure(folder, tiny_llama, **changes):
    settings = {"engine": "transformers", "dtype": "float32", "responses": 2, "max_tokens": 6, "chunk_size": 3}
    return resolve({"output_uri": str(folder), "base_model": str(tiny_llama), "generate": settings, **changes})


def test_the_number_of_shards_does_not_change_the_responses(tmp_path, tiny_llama, prompts):
    whole = generate(configure(tmp_path / "one", tiny_llama), 1, 0, 1, str(tiny_llama), prompts)
    config = configure(tmp_path / "three", tiny_llama, shards=3)
    parts = [generate(config, 1, shard, 3, str(tiny_llama), prompts) for shard in (2, 0, 1)]
    assert parts[1] + parts[2] + parts[0] == whole
    assert [(row["prompt_id"], row["response_index"]) for row in whole] == [
        (f"p{i}", j) for i in range(10) for j in (0, 1)
    ]
    assert all(len(row["token_ids"]) == len(row["logprobs"]) <= 6 for row in whole)


def test_iterations_and_seeds_draw_anew(tmp_path, tiny_llama, prompts):
    def tokens(config, iteration):
        return [row["token_ids"] for row in generate(config, iteration, 0, 1, str(tiny_llama), prompts)]

    first = tokens(configure(tmp_path / "a", tiny_llama), 1)
    assert tokens(configure(tmp_path / "a", tiny_llama), 2) != first
    assert tokens(configure(tmp_path / "b", tiny_llama, seed=1), 1) != first


def test_an_interrupted_shard_goes_on_with_the_chunks_it_has(tmp_path, tiny_llama, prompts, monkeypatch):
    whole = generate(configure(tmp_path / "whole", tiny_llama), 1, 0, 1, str(tiny_llama), prompts)
    config = configure(tmp_path / "cut", tiny_llama)
    sample, calls = TransformersEngine.sample, []

    def counted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(self, *arguments)

    monkeypatch.setattr(TransformersEngine, "sample", counted)
    with pytest.raises(KeyboardInterrupt):
        generate(config, 1, 0, 1, str(tiny_llama), prompts)
    assert open_store(config.output_uri).manifest(lineage_of(config).chunk_key(1, 1)) is not None
    assert generate(config, 1, 0, 1, str(tiny_llama), prompts) == whole
    assert len(calls) == 5, "two chunks, the interrupted one, and the two that were missing"
    assert generate(config, 1, 0, 1, str(tiny_llama), prompts) == whole
    assert len(calls) == 5


def test_responses_of_another_configuration_are_not_mixed_in(tmp_path, tiny_llama, prompts):
    generate(configure(tmp_path / "run", tiny_llama), 1, 0, 1, str(tiny_llama), prompts)
    other = configure(tmp_path / "run", tiny_llama, seed=1)
    first = lineage_of(configure(tmp_path / "run", tiny_llama)).chunk_key(1, 0)
    generate(other, 1, 0, 1, str(tiny_llama), prompts)
    assert lineage_of(other).chunk_key(1, 0) != first, "they lie side by side"
    assert open_store(other.output_uri).manifest(first) is not None


def test_a_log_probability_that_is_no_number_is_not_stored(tmp_path, tiny_llama, prompts):
    broken = shutil.copytree(tiny_llama, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    config = configure(tmp_path / "run", broken)
    with pytest.raises(RunFailedError, match=r"broken: a log-probability of a response to prompt p0 is not finite"):
        generate(config, 1, 0, 1, str(broken), prompts)
    assert open_store(config.output_uri).manifest(lineage_of(config).chunk_key(1, 0)) is None


def test_figures_sum_over_chunks(tmp_path, tiny_llama, prompts):
    config = configure(tmp_path / "run", tiny_llama)
    rows = generate(config, 1, 0, 1, str(tiny_llama), prompts)
    found = figures(config, 1, 4)
    cut = sum(row["finish_reason"] == "length" for row in rows)
    assert found["generate/truncated_fraction"] == pytest.approx(cut / 20)
    assert found["generate/tokens_per_second"] > 0
