"""The headers of a model's safetensors files, wherever those lie: what tensors there are, without reading one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from sppo.errors import ConfigError
from sppo.models.hub import hub_errors
from sppo.store.s3 import S3Folder

INDEX = "model.safetensors.index.json"
SUFFIX = ".safetensors"
WHOLE = f"model{SUFFIX}"
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


class Tensor(NamedTuple):
    """A tensor as a header tells it."""

    dtype: str
    shape: tuple[int, ...]


class _Index(BaseModel):
    weight_map: dict[str, str]


def tensors_of(uri: str, folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model by name.

    Args:
        uri: the model's; S3 and hubs are asked for the headers alone where the folder has no weights.
        folder: as `sppo.models.fetch.fetch_model` gives it.

    Raises:
        ConfigError: if there are no safetensors files, one or the index is damaged, or one lacks what the index names.
        InfrastructureError: if a hub or store cannot be reached.
    """
    index = folder / INDEX
    placed = _placed(index, uri) if index.is_file() else {}
    local = {path.name for path in folder.glob(f"*{SUFFIX}")}
    if local:
        files = {name: _of_file(folder / name) for name in _loaded(local, placed)}
    elif uri.startswith("s3://"):
        files = _of_s3(uri, placed)
    else:
        files = _of_hub(uri)
    for tensor, name in placed.items():
        if WHOLE not in files and tensor not in files.get(name, {}):
            what = f"lacks {tensor}" if name in files else "is not there"
            raise ConfigError(f"{uri}: {name}, which {INDEX} names, {what}; download the model again")
    return {tensor: form for file in files.values() for tensor, form in file.items()}


def _placed(index: Path, uri: str) -> dict[str, str]:
    """The file of each tensor, as a model's index has them."""
    try:
        return _Index.model_validate_json(index.read_bytes()).weight_map
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise ConfigError(f"{uri}: {INDEX} is damaged ({reason}); download the model again") from None


def _loaded(names: Collection[str], placed: Mapping[str, str]) -> list[str]:
    """Which files are loaded, in transformers' order: others, such as consolidated.safetensors, may lie beside them."""
    if WHOLE in names:
        return [WHOLE]
    return sorted(set(names) & set(placed.values()) if placed else names)


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        _of_file(path)
    except ValueError:
        return False
    return True


def parse(read: Callable[[int, int], bytes], size: int) -> dict[str, Tensor]:
    """The header of a safetensors file.

    The file is the header's length (8 bytes, little-endian), the header (JSON, each tensor with its `dtype`, `shape`
    and `data_offsets`), and the data (https://huggingface.co/docs/safetensors, "Format").

    Args:
        read: gives the bytes from a place on, as many as asked for or up to the end.
        size: bytes of the file.

    Raises:
        ValueError: if the header is not JSON of this form, or the file is not as long as it says.
    """
    length = int.from_bytes(read(0, 8), "little")
    if length > min(size - 8, _LONGEST_HEADER):
        raise ValueError(f"a header of {length} bytes")
    try:
        header: dict[str, dict[str, Any]] = json.loads(read(8, length))
        header.pop("__metadata__", None)
        end = 8 + length + max((told["data_offsets"][1] for told in header.values()), default=0)
        tensors = {name: Tensor(told["dtype"], tuple(told["shape"])) for name, told in header.items()}
    except (AttributeError, TypeError, LookupError, RecursionError) as error:
        raise ValueError("a header of another form") from error
    if end != size:
        raise ValueError(f"{size} bytes, not {end}")
    return tensors


def _of_file(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:

        def read(start: int, length: int) -> bytes:
            file.seek(start)
            return file.read(length)

        return parse(read, path.stat().st_size)


def _of_s3(uri: str, placed: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    folder = S3Folder(uri)
    names = _loaded([name for name in folder.names if name.endswith(SUFFIX) and "/" not in name], placed)
    if not names:
        raise ConfigError(f"{uri}: no *{SUFFIX} in that folder; save the model with safetensors weights")
    found = {}
    for name in names:
        try:
            found[name] = parse(partial(folder.read, name), folder.size(name))
        except ValueError as error:
            raise ConfigError(f"{uri}: {name} is truncated or damaged; upload the model again") from error
    return found


def _of_hub(uri: str) -> dict[str, dict[str, Tensor]]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    repo, _, revision = uri.removeprefix("hf://").partition("@")
    try:
        with hub_errors(uri):
            told = HfApi().get_safetensors_metadata(repo, revision=revision or None)
    except NotASafetensorsRepoError as error:
        raise ConfigError(f"{uri}: has no safetensors weights; use a model that has") from error
    except SafetensorsParsingError as error:
        raise ConfigError(f"{uri}: a safetensors file is damaged ({error}); use another model") from error
    return {
        name: {tensor: Tensor(form.dtype, tuple(form.shape)) for tensor, form in file.tensors.items()}
        for name, file in told.files_metadata.items()
    }
