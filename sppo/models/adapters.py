"""Low-rank adapters beside the model that they change: `train.lora`.

The base model stays as it is for the whole run, and the iterations go on training one adapter: that of pi_t is where
the training of pi_{t+1} starts from. What is handed on is the adapter and the name of its base, never a merged model:
rounded to bfloat16, a merged weight loses what is smaller than half the spacing of its type, which at the rates of
alignment is most of the change (docs/training.md, "Adapters").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sppo.config.sections.train import LoraConfig
from sppo.errors import ConfigError
from sppo.models.fetch import ADAPTER_CONFIG, BASE_FILE, Base, Policy
from sppo.models.policy import cast, load_policy
from sppo.models.saving import weights_written

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL = ("all-linear",)
WEIGHTS = "adapter_model.safetensors"
_NAME = "default"
"""peft lets a model have several adapters by name; ours has one."""
_PREFIX = "base_model.model."
"""What peft's files put before the name of a module."""


def load_adapted(policy: Policy, dtype: str, attention: str = "sdpa") -> PreTrainedModel:
    """A policy as an engine samples from it: the base's weights in `dtype`, and beside them its adapter, if it has one.

    Raises:
        ConfigError: if weights are missing, or belong to another model.
    """
    model = load_policy(policy.base, dtype, attention)
    if policy.adapter is not None:
        import peft

        settings = peft.LoraConfig(**json.loads((policy.adapter / ADAPTER_CONFIG).read_bytes()))
        peft.inject_adapter_in_model(settings, model, _NAME)
        fill(model, policy.adapter)
        cast(model.parameters(), getattr(torch, dtype))
    return model


def load_merged(policy: Policy, dtype: str, attention: str = "sdpa") -> PreTrainedModel:
    """A policy as a model of its own, its adapter added to the base's weights in float32 before they are rounded."""
    if policy.adapter is None:
        return load_policy(policy.base, dtype, attention)
    import peft

    base = load_policy(policy.base, "float32", attention)
    model: PreTrainedModel = peft.PeftModel.from_pretrained(base, policy.adapter).merge_and_unload()
    cast(model.parameters(), getattr(torch, dtype))
    return model


def adapt(model: PreTrainedModel, config: LoraConfig, dtype: torch.dtype, seed: int) -> None:
    """Put new adapters on a float32 model, in place; they alone require gradients from now on, and change nothing yet.

    Adapters are float32, for the optimizer to move; what is frozen needs no more than the arithmetic's type.

    Args:
        model: the base.
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
    """Whether the model has adapters."""
    return hasattr(model, "peft_config")


@torch.no_grad()
def fill(model: PreTrainedModel, folder: Path) -> None:
    """Give the adapters that are on a model the values that were saved, in place.

    Raises:
        ConfigError: if the file holds other adapters than the model has.
    """
    from safetensors.torch import load_file

    own = {_saved_as(name): parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    saved = load_file(folder / WEIGHTS)
    if {name: tensor.shape for name, tensor in saved.items()} != {name: each.shape for name, each in own.items()}:
        raise ConfigError(f"{folder}: holds other adapters than train.lora asks for; start a new run")
    for name, parameter in own.items():
        parameter.copy_(saved[name])


def save_adapter(model: PreTrainedModel, base: Base, target: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write pi_{t+1}: its adapter as peft writes one, and which model it belongs to.

    peft's own writer leaves the order of the modules' names to chance, and a model's digest would follow it.

    Args:
        model: the model that was trained.
        base: what the adapter belongs to.
        target: where to write.
        weights: the adapter's float32 weights, by parameter name, on the CPU.
    """
    from safetensors.torch import save_file

    tensors = {_saved_as(name): tensor for name, tensor in weights.items()}
    with weights_written(target):
        save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    repository, _, revision = base.uri.removeprefix("hf://").partition("@")
    known = {"base_model_name_or_path": repository, "revision": revision or None}
    settings = {**model.peft_config[_NAME].to_dict(), **known, "inference_mode": True}
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    (target / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True))
    (target / BASE_FILE).write_text(base.model_dump_json(indent=1), encoding="utf-8")


def _saved_as(name: str) -> str:
    return _PREFIX + name.replace(f".{_NAME}.", ".")
