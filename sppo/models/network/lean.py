"""Lean forms of two layers of transformers' models that cost training time and memory beside its products.

On a CPU both are written out here: they compute what the layers do and keep only their inputs for the backward pass.
They take the place of layers whose classes are known to compute this; others stay as they are. On a GPU
`torch.compile` makes few kernels of the model's own layers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
_ROWS = 256
"""Tokens whose norms are worked out at a time: what they need fits a core's cache."""


def make_lean(model: PreTrainedModel) -> None:
    """Give the norms and MLPs of a model their lean forms where these are known to be the same.

    MLPs of a model with gradient checkpointing stay: their products would be made a third time.
    """
    norms = {f"{family}RMSNorm" for family in _FAMILIES}
    mlps = set() if model.is_gradient_checkpointing else {f"{family}MLP" for family in _FAMILIES}
    for module in model.modules():
        kind = type(module).__name__
        if kind in norms:
            module.forward = functools.partial(_norm, module)
        elif kind in mlps and _is_plain(module):
            module.forward = functools.partial(_mlp, module)


def fuse(model: PreTrainedModel, **options: Any) -> None:
    """Have the layers of a model compiled for a GPU, at their first call; with options of `torch.compile`."""
    for module in model.modules():
        if type(module).__name__ in (model._no_split_modules or []):
            module.compile(dynamic=True, **options)


def _is_plain(mlp: torch.nn.Module) -> bool:
    """Whether an MLP is three products without biases around a SiLU: adapters, for one, make it something else."""
    from transformers.activations import ACT2FN

    layers = [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    plain = all(type(layer) is torch.nn.Linear and layer.bias is None for layer in layers)
    return plain and isinstance(mlp.act_fn, (torch.nn.SiLU, type(ACT2FN["silu"])))


def _norm(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = RMSNorm.apply(hidden, module.weight, module.variance_epsilon)
    return output


def _mlp(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    gated: torch.Tensor = GatedProducts.apply(hidden, module.gate_proj.weight, module.up_proj.weight)
    output: torch.Tensor = module.down_proj(gated)
    return output


class RMSNorm(torch.autograd.Function):
    """weight * (x / sqrt(mean(x^2) + epsilon)), worked out in float32 (Zhang and Sennrich, arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """See the class."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        output, scales = torch.empty_like(rows), torch.empty(len(rows), 1)
        for part, result, scale in zip(*(tensor.split(_ROWS) for tensor in (rows, output, scales)), strict=True):
            values = _copied(part)
            torch.linalg.vector_norm(values, dim=-1, keepdim=True, out=scale)
            scale.square_().div_(rows.shape[1]).add_(epsilon).rsqrt_()
            torch.mul(values.mul_(scale).to(weight.dtype), weight, out=result)
        ctx.save_for_backward(hidden, weight, scales)
        return output.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """See the class."""
        hidden, weight, scales = ctx.saved_tensors
        rows, given = (tensor.reshape(-1, hidden.shape[-1]) for tensor in (hidden, gradients[0]))
        to_rows, to_weight, factor = (
            torch.empty_like(rows),
            torch.zeros_like(weight, dtype=torch.float32),
            weight.float(),
        )
        for part, gradient, result, scale in zip(
            *(tensor.split(_ROWS) for tensor in (rows, given, to_rows, scales)), strict=True
        ):
            normed, gradient = _copied(part).mul_(scale), _copied(gradient)
            product = normed * gradient
            to_weight += product.sum(dim=0)
            along = product.mul_(factor).mean(dim=-1, keepdim=True)
            result.copy_(gradient.mul_(factor).addcmul_(normed, along, value=-1).mul_(scale))
        return to_rows.view_as(hidden), to_weight.to(weight.dtype), None


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32, copy=True)


class GatedProducts(torch.autograd.Function):
    """silu(x W_gate^T) * (x W_up^T) (Shazeer, arXiv 2002.05202); both products are made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """See the class."""
        ctx.save_for_backward(hidden, gate, up)
        return functional.silu(functional.linear(hidden, gate), inplace=True).mul_(functional.linear(hidden, up))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        hidden, gate, up = ctx.saved_tensors
        rows, given = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (hidden, gradients[0]))
        opening, rising = rows @ gate.T, rows @ up.T
        to_rising = functional.silu(opening).mul_(given)
        to_opening = torch.ops.aten.silu_backward(rising.mul_(given), opening)
        to_hidden = (to_opening @ gate).addmm_(to_rising, up)
        return to_hidden.view_as(hidden), to_opening.T @ rows, to_rising.T @ rows
