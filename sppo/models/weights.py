"""Are a model's weights those that its architecture wants? Told by the headers of its files, before anything is loaded.

A tensor that is missing would be drawn at random, and the run would end well with a model that nobody has.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppo.errors import ConfigError
from sppo.models.headers import Tensor, tensors_of

if TYPE_CHECKING:
    import torch

_SHOWN = 3


def check_weights(uri: str, folder: Path) -> None:
    """Compare the tensors of a model with those that its config.json wants; no weight is read.

    Args:
        uri: the model's.
        folder: as `sppo.models.fetch.fetch_model` gives it, with weights or without.

    Raises:
        ConfigError: naming the tensors that are missing, not wanted, or of another shape, or the file that is missing.
        InfrastructureError: if a hub or store cannot be reached.
    """
    tensors = tensors_of(uri, folder)
    if importlib.util.find_spec("torch"):  # not in prepare's image: images/README.md, "What is not here"
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


def _dtype(name: str) -> torch.dtype:
    """Of a header's name; what has no weights to compare with is a byte, as only shapes are compared."""
    import torch

    names = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return names.get(name, torch.uint8)
