"""Weights that are not a model's own are refused by their headers, before anything is sampled or trained."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig, Qwen2MoeConfig

from sppo.errors import ConfigError
from sppo.models.headers import INDEX, tensors_of
from sppo.models.policy import load_policy
from sppo.models.weights import check_weights

FILE = "model.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"
SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
GPT2 = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2)


@pytest.fixture
def damaged(tiny_llama, tmp_path):
    """The tiny model with a change of its tensors."""

    def work(change):
        folder = shutil.copytree(tiny_llama, tmp_path / "model")
        weights = load_file(folder / FILE)
        change(weights)
        save_file(weights, folder / FILE, metadata={"format": "pt"})
        return folder

    return work


def lose_a_layer(weights):
    for name in [name for name in weights if "layers.1" in name]:
        weights.pop(name)


FAULTS = {
    "missing": (lambda weights: weights.pop(UP), re.escape(f"the weights of LlamaForCausalLM lack {UP}; download")),
    "unknown": (lambda weights: weights.update(odd=torch.ones(2)), "hold what it does not know: odd; download"),
    "shape": (
        lambda weights: weights.update({UP: weights[UP][:-1].clone()}),
        re.escape(f"have another shape at {UP} ([63, 32], not [64, 32]); download"),
    ),
    "many": (lose_a_layer, r"lack model.layers.1.input_layernorm.weight, .*, .* and 6 more; download"),
}


@pytest.mark.parametrize("loads", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_the_models_is_named(damaged, loads, fault):
    change, message = FAULTS[fault]
    folder = damaged(change)
    with pytest.raises(ConfigError, match=message):
        load_policy(folder, "float32") if loads else check_weights("the model", folder)


def test_a_head_is_missed_where_it_is_not_the_embedding(tiny_llama, damaged):
    check_weights("the model", tiny_llama)
    assert "lm_head.weight" not in load_file(tiny_llama / FILE), "the embedding is the head"
    folder = damaged(lambda weights: None)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": False}))
    with pytest.raises(ConfigError, match=r"lack lm_head\.weight"):
        check_weights("the model", folder)


def test_a_shard_that_is_missing_is_named(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / FILE).unlink()
    load_policy(tiny_llama, "float32").save_pretrained(folder, max_shard_size="40KB")
    check_weights("the model", folder)
    shards = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    assert len(shards) > 2
    (folder / shards[1]).unlink()
    with pytest.raises(ConfigError, match=f"{shards[1]}, which {INDEX} names, is not there; download the model again"):
        check_weights("the model", folder)


@pytest.mark.parametrize(
    ("config", "lost"),
    [
        (MixtralConfig(**SMALL, intermediate_size=32, num_local_experts=4), "experts.1."),
        (
            Qwen2MoeConfig(
                **SMALL, intermediate_size=32, moe_intermediate_size=8, shared_expert_intermediate_size=8, num_experts=4
            ),
            "experts.1.",
        ),
        (GPT2, "mlp.c_fc.weight"),
    ],
    ids=["mixtral", "qwen2-moe", "gpt2"],
)
def test_checkpoints_of_other_forms_pass_and_are_missed_in_part(config, lost, tmp_path):
    """transformers puts experts together when it loads them."""
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    check_weights("the model", tmp_path)
    weights = load_file(tmp_path / FILE)
    weights.pop(next(name for name in sorted(weights) if lost in name))
    save_file(weights, tmp_path / FILE, {"format": "pt"})
    with pytest.raises(ConfigError, match="the model: the weights"):
        check_weights("the model", tmp_path)


def test_names_of_an_old_checkpoint_are_known(tmp_path):
    """GPT-2's first checkpoints have no prefix, and hold masks that are computed today."""
    AutoModelForCausalLM.from_config(GPT2).save_pretrained(tmp_path)
    old = {name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / FILE).items()}
    old |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 8, 8) for layer in (0, 1)}
    save_file(old, tmp_path / FILE, {"format": "pt"})
    check_weights("the model", tmp_path)
    loaded = load_policy(tmp_path, "float32").state_dict()
    assert loaded["transformer.h.1.mlp.c_fc.weight"].equal(old["h.1.mlp.c_fc.weight"])


def test_files_that_nothing_loads_are_not_looked_at(tiny_llama, tmp_path):
    """As Mistral's repositories hold: the same weights once more, under names of their own."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    save_file({"output.weight": torch.zeros(2)}, folder / "consolidated.safetensors")
    check_weights("the model", folder)
    (folder / FILE).unlink()
    load_policy(tiny_llama, "float32").save_pretrained(folder, max_shard_size="40KB")
    assert (folder / INDEX).is_file()
    check_weights("the model", folder)
    assert load_policy(folder, "float32").state_dict().keys() == load_policy(tiny_llama, "float32").state_dict().keys()


@pytest.mark.parametrize(
    "content", ["{oops", "[" * 100_000, "[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}']
)
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(
        ConfigError, match=rf"^hf://a/b: {re.escape(INDEX)} is damaged \(.*\); download the model again$"
    ):
        tensors_of("hf://a/b", tmp_path)
