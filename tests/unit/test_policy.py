import json
import shutil

import pytest
import torch

from sppo.config.sections.train import LoraConfig
from sppo.errors import ConfigError
from sppo.models.adapters import adapt
from sppo.models.policy import load_policy, save_policy, without_dropout


def test_a_saved_policy_is_a_whole_folder_with_the_same_weights(tiny_llama, tmp_path):
    model = load_policy(tiny_llama, "float32")
    save_policy(model, tiny_llama, tmp_path / "saved")
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {p.name for p in tiny_llama.iterdir()}
    again = load_policy(tmp_path / "saved", "float32").state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=0)


def test_a_policy_can_be_saved_in_another_type(tiny_llama, tmp_path):
    save_policy(load_policy(tiny_llama, "bfloat16"), tiny_llama, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "bfloat16"
    assert next(load_policy(tmp_path / "saved", "bfloat16").parameters()).dtype == torch.bfloat16


def test_generation_settings_are_handed_on_unchanged(tiny_llama, tmp_path):
    """Many chat models hold settings that transformers loads, but refuses to save."""
    source = shutil.copytree(tiny_llama, tmp_path / "source")
    settings = '{"do_sample": false, "temperature": 0.6, "eos_token_id": [1, 2]}'
    (source / "generation_config.json").write_text(settings)
    save_policy(load_policy(source, "float32"), source, tmp_path / "saved")
    assert (tmp_path / "saved" / "generation_config.json").read_text() == settings


def test_a_policy_without_generation_settings_gets_none(tiny_llama, tmp_path):
    source = shutil.copytree(tiny_llama, tmp_path / "source")
    (source / "generation_config.json").unlink()
    save_policy(load_policy(source, "float32"), source, tmp_path / "saved")
    eos = json.loads((tiny_llama / "config.json").read_text())["eos_token_id"]
    assert load_policy(tmp_path / "saved", "float32").generation_config.eos_token_id == eos


def test_unsafe_folders_are_not_loaded(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "modeling.py").touch()
    with pytest.raises(ConfigError, match="could run code"):
        load_policy(folder, "float32")


def test_dropout_is_switched_off_but_for_adapters(tiny_llama):
    model = load_policy(tiny_llama, "float32", "eager").train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
        layer.mlp.act_fn = torch.nn.Sequential(layer.mlp.act_fn, torch.nn.Dropout(0.5))
    ids = torch.arange(8)[None]

    def twice():
        return [model(ids).logits for _ in range(2)]

    first, second = twice()
    assert not torch.equal(first, second)
    without_dropout(model)
    first, second = twice()
    assert torch.equal(first, second)
    adapt(model, LoraConfig(rank=2, dropout=0.3), torch.float32, 0)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0, 0.3}
