"""Loading and saving the policy: a causal language model in a safetensors folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sppo.models.fetch import check_safe
from sppo.models.saving import weights_written
from sppo.models.weights import refuse
from sppo.store import keys
from sppo.store.base import MANIFEST

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def device_for() -> torch.device:
    """The accelerator of this process, or the CPU."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def load_policy(folder: Path, dtype: str, attention: str = "sdpa") -> PreTrainedModel:
    """The causal language model of a checked folder, with its weights in `dtype`.

    Raises:
        ConfigError: if the weights are not all that the model has, and no others; see `sppo.models.weights`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_safe(folder, str(folder))
    model: PreTrainedModel
    model, told = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        attn_implementation=attention,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused in words
    )
    refuse(told, str(folder), type(model).__name__)
    return model


def empty_policy(folder: Path, dtype: str, attention: str = "sdpa") -> PreTrainedModel:
    """The causal language model of a checked folder without its weights, on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder), dtype=getattr(torch, dtype), attn_implementation=attention
        )
    return model


def without_dropout(model: PreTrainedModel) -> None:
    """Switch dropout off for good, in place; of adapters that are put on later it is not.

    The log-ratio of a step would else be that of another, smaller network than the one that sampled. The authors'
    trainer does so too (TRL's `disable_dropout`). Attention takes its rate from an attribute, other layers are modules.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def cast(parameters: Iterable[torch.nn.Parameter], dtype: torch.dtype) -> None:
    """Store parameters in another type; a model's buffers keep theirs, such as the frequencies of rotary embeddings."""
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)


def save_policy(
    model: PreTrainedModel, source: Path, target: Path, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write a model as a standard Hugging Face folder, with the tokenizer files of the folder that it came from.

    Args:
        model: what to write.
        source: the folder that it came from.
        target: where to write.
        weights: by parameter name, in the place of the model's own.
    """
    from transformers import GenerationConfig

    # The source's own generation settings are copied as they are: transformers refuses to save what many models hold.
    model.generation_config = GenerationConfig()
    with weights_written(target):
        model.save_pretrained(target, state_dict=weights)
    (target / "generation_config.json").unlink()
    for path in source.iterdir():
        describes = path.suffix in {".json", ".jinja", ".model", ".txt"}
        of_its_making = path.name in {MANIFEST, keys.DISTRIBUTION_FILE, "model.safetensors.index.json"}
        if describes and not of_its_making and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
