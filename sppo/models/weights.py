"""Are a model's weights those that its architecture wants? Told by the headers of its files, before anything is loaded.

A tensor that is missing would be drawn at random, and the run would end well with a model that nobody has.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sppo.errors import ConfigError, InfrastructureError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
_SHOWN = 3
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


class Tensor(NamedTuple):
    """A tensor as a header tells it."""

    dtype: str
    shape: tuple[int, ...]


def check_weights(uri: str, folder: Path) -> None:
    """Compare the tensors of a model with those that its config.json wants; no weight is read.

    Args:
        uri: the model's; a hub is asked for the headers alone where the folder has no weights.
        folder: as `sppo.models.fetch.fetch_model` gives it.

    Raises:
        ConfigError: naming the tensors that are missing, not wanted, or of another shape, or the file that is missing.
        InfrastructureError: if a hub cannot be reached.
    """
    tensors = _of_folder(folder, uri) if any(folder.glob("*.safetensors")) else _of_hub(uri)
    if importlib.util.find_spec("torch"):  # the image of prepare is small: there the first stage that loads looks
        check_tensors(tensors, folder, uri)


def check_tensors(tensors: Mapping[str, Tensor], folder: Path, uri: str) -> None:
    """Compare tensors with a model that has no data, through transformers' own renamings and lists of what may lack.

    Raises:
        ConfigError: see `check_weights`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        architecture = type(AutoModelForCausalLM.from_config(config))
    empty = {
        name: torch.empty(tensor.shape, dtype=_dtype(tensor.dtype), device="meta") for name, tensor in tensors.items()
    }
    try:
        with _quiet():
            _, told = architecture.from_pretrained(
                None,
                config=config,
                state_dict=empty,
                device_map={"": "meta"},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except RuntimeError as error:  # parts that are put together, such as experts, do not fit
        raise ConfigError(f"{uri}: the weights do not fit {architecture.__name__}; download the model again") from error
    refuse(told, uri, architecture.__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bar and report: nothing is loaded, and what it found is told in one line."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def refuse(told: Mapping[str, Iterable[Any]], uri: str, architecture: str) -> None:
    """Refuse what transformers tells of a loading that left something out.

    Raises:
        ConfigError: see `check_weights`.
    """
    faults = {
        "lack": [str(name) for name in told["missing_keys"]],
        "hold what it does not know:": [str(name) for name in told["unexpected_keys"]],
        "have another shape at": [
            f"{name} ({list(found)}, not {list(wanted)})" for name, found, wanted in told["mismatched_keys"]
        ],
    }
    words = [f"{what} {_some(names)}" for what, names in faults.items() if names]
    if words:
        raise ConfigError(
            f"{uri}: the weights of {architecture} {'; they '.join(words)}; download or save the model again"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more


def _of_folder(folder: Path, uri: str) -> dict[str, Tensor]:
    found = {path.name: _header(path) for path in sorted(folder.glob("*.safetensors"))}
    index = folder / INDEX
    if index.is_file():
        for tensor, name in json.loads(index.read_bytes())["weight_map"].items():
            if tensor not in found.get(name, {}):
                what = f"lacks {tensor}" if name in found else "is not there"
                raise ConfigError(f"{uri}: {name}, which {INDEX} names, {what}; download the model again")
    return {tensor: form for file in found.values() for tensor, form in file.items()}


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The header of a safetensors file, and the bytes that the whole file must have.

    The file is the header's length (8 bytes, little-endian), the header (JSON, each tensor with its `dtype`, `shape`
    and `data_offsets`), and the data (https://huggingface.co/docs/safetensors, "Format").

    Raises:
        ValueError: if it is cut within the header, or that is not JSON of this form.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size - 8, _LONGEST_HEADER):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
    try:
        header.pop("__metadata__", None)
        return header, 8 + length + max((told["data_offsets"][1] for told in header.values()), default=0)
    except (AttributeError, TypeError, LookupError) as error:
        raise ValueError("a header of another form") from error


def _header(path: Path) -> dict[str, Tensor]:
    return {name: Tensor(told["dtype"], tuple(told["shape"])) for name, told in read_header(path)[0].items()}


def _of_hub(uri: str) -> dict[str, Tensor]:
    """The same from a hub, by range requests."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, OfflineModeIsEnabled

    repo, _, revision = uri.removeprefix("hf://").partition("@")
    try:
        told = HfApi().get_safetensors_metadata(repo, revision=revision or None)
    except NotASafetensorsRepoError as error:
        raise ConfigError(f"{uri}: has no safetensors weights; use a model that has") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise InfrastructureError(f"{uri}: the headers of its weights cannot be read ({error})") from error
    return {
        name: Tensor(tensor.dtype, tuple(tensor.shape))
        for file in told.files_metadata.values()
        for name, tensor in file.tensors.items()
    }


def _dtype(name: str) -> torch.dtype:
    """Of a header's name; what has no weights to compare with is a byte, as only shapes are compared."""
    import torch

    names = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return names.get(name, torch.uint8)
