"""Training low-rank adapters in the place of all weights: `train.lora`.

In iteration t the frozen weights are those of pi_t and the adapters begin as no change at all, so that training starts
from pi_t as it does without adapters. The reference is pi_t too; its log-probabilities were stored when it generated
the responses, and nobody has to switch the adapters off to compute them. The iteration's model is the merged one,
float32 like any other policy: the next iteration puts new adapters on it, so that the rank bounds what one
iteration changes, not what the run does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from sppo.config.sections.train import LoraConfig
from sppo.errors import ConfigError
from sppo.models.policy import cast, load_policy, save_policy
from sppo.store import keys

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL = ("all-linear",)
_NAME = "default"
"""peft lets a model have several adapters by name; ours has one."""


def adapt(model: PreTrainedModel, config: LoraConfig, dtype: torch.dtype, seed: int) -> None:
    """Put adapters on a float32 model, in place; they alone require gradients from now on.

    Adapters are float32, for the optimizer to move; what is frozen needs no more than the arithmetic's type.

    Args:
        model: pi_t.
        config: which adapters, `rank` of at least 1.
        dtype: of the forward pass.
        seed: draws the adapters' first values.

    Raises:
        ConfigError: if the model has no layer of a wanted name.
    """
    import peft

    known = {name.rpartition(".")[2] for name in _linear_layers(model)}
    wanted = known if config.target_modules == ALL else set(config.target_modules)
    if not wanted or wanted - known:
        raise ConfigError(
            f"train.lora.target_modules: {type(model).__name__} has no linear layer named "
            f"{', '.join(sorted(wanted - known)) or 'at all'}; it has {', '.join(sorted(known))}"
        )
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=sorted(wanted),
    )
    torch.manual_seed(seed)
    # Not a PeftModel around it: the model keeps its class, and the parts that log-probabilities are computed with.
    peft.inject_adapter_in_model(settings, model, _NAME)
    cast((parameter for parameter in model.parameters() if not parameter.requires_grad), dtype)


def _linear_layers(model: PreTrainedModel) -> Iterator[str]:
    """Names of what can have an adapter: not the head, whose weight is the embedding's in many models."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head:
            yield name


def is_adapted(model: PreTrainedModel) -> bool:
    """Whether `adapt` was here."""
    return hasattr(model, "peft_config")


def save_merged(model: PreTrainedModel, source: Path, target: Path, adapters: Mapping[str, torch.Tensor]) -> None:
    """Write pi_{t+1} as any policy is written, and beside it, in a folder of its own, the adapters in peft's format.

    Args:
        model: the model that was trained.
        source: the folder of pi_t.
        target: where to write.
        adapters: its adapters' float32 weights, by parameter name, on the CPU.
    """
    import peft

    _save_adapters(model, adapters, target / keys.ADAPTER)
    # What anyone who uses the adapters would do: so they are known to give this model.
    merged = peft.PeftModel.from_pretrained(load_policy(source, "float32"), target / keys.ADAPTER).merge_and_unload()
    save_policy(merged, source, target)


def _save_adapters(model: PreTrainedModel, adapters: Mapping[str, torch.Tensor], folder: Path) -> None:
    """peft's own writer leaves the order of the modules' names to chance, and a model's digest would follow it."""
    folder.mkdir()
    tensors = {f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": tensor for name, tensor in adapters.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {**model.peft_config[_NAME].to_dict(), "inference_mode": True}
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True))
