import errno
import json
import resource
import shutil

import pytest
import torch
from safetensors import SafetensorError

from sppo.config.sections.train import LoraConfig
from sppo.errors import ConfigError, InfrastructureError, storage_errors
from sppo.models.adapters import adapt, save_adapter
from sppo.models.fetch import Base
from sppo.models.policy import load_policy, save_policy, without_dropout
from sppo.models.saving import weights_written
from sppo.store.local import LocalStore
from sppo.store.once import run_once


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


@pytest.mark.parametrize("adapter", [False, True])
def test_a_disk_that_is_full_while_weights_are_written_commits_nothing(tiny_llama, tmp_path, adapter):
    """A limit of a file's size stands for the disk's: safetensors tells of both in the same words."""
    store = LocalStore(tmp_path / "run")
    model = load_policy(tiny_llama, "float32")

    def work(output):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # Python ignores SIGXFSZ
        try:
            if adapter:
                adapt(model, LoraConfig(rank=32), torch.float32, seed=0)
                weights = {name: each.detach() for name, each in model.named_parameters() if ".lora_" in name}
                save_adapter(model, Base(uri="base", sha256="aa"), output, weights)
            else:
                save_policy(model, tiny_llama, output)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return {}

    with (
        pytest.raises(InfrastructureError, match=r"/output: File too large; free or allow that place$"),
        storage_errors(),
    ):
        run_once(store, "model", {}, work)
    assert not list((tmp_path).rglob("*.safetensors")) and store.manifest("model") is None


def test_a_disk_without_room_is_told_as_such(tmp_path):
    with pytest.raises(OSError) as caught, weights_written(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
