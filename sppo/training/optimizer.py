"""RMSProp on float32 weights behind a model that may compute in bfloat16.

A step of alignment is smaller than the spacing of bfloat16 numbers around a weight, so the weights that the optimizer
moves, its state and accumulated gradients are float32 whatever the model computes in. The update is that of
`torch.optim.RMSprop` with its defaults (alpha 0.99, epsilon 1e-8), which the released SPPO code uses, with clipping and
the cast for the model. On a CPU it works in blocks that stay in a core's cache, on a GPU with few kernels for many
weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch

from sppo.models.policy import cast
from sppo.training.workers.parallel import Workers, local

ALPHA, EPSILON = 0.99, 1e-8
_BLOCK = 1 << 18
"""Weights of one block on a CPU: some MB with gradient and state, which a core's cache holds."""
_TOGETHER = 1 << 26
"""Weights that a GPU moves with the same kernels, which need two float32 copies of their gradients."""


class RMSProp:
    """The optimizer of a model's trainable weights.

    Attributes:
        weights: the float32 weights by name; the model's own parameters where those are float32.
        squares: running mean of the squared gradient, by name.
        several: whether a step takes several passes through the model, whose gradients are added up.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype, group: Workers) -> None:
        """Take over a float32 model, which computes in `dtype` from now on unless it is sharded and does so anyway."""
        self.group = group
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach() for name, p in self.parameters.items()}
        self.squares = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.gradients: dict[str, torch.Tensor] = {}
        self.several = False
        for name, parameter in self.parameters.items():
            parameter.register_post_accumulate_grad_hook(functools.partial(self._arrived, name))
        if group.size == 1:
            cast(model.parameters(), dtype)

    def accumulate(self) -> None:
        """Keep the gradients of a backward pass in float32, added to those of the passes before."""
        for name in self.parameters:
            self._keep(name)

    @torch.no_grad()
    def _keep(self, name: str) -> None:
        gradient = self.parameters[name].grad
        if gradient is not None:
            sum_so_far = self.gradients.get(name)
            mine = local(gradient)
            self.gradients[name] = mine.float() if sum_so_far is None else sum_so_far.add_(mine)
            self.parameters[name].grad = None

    def _arrived(self, name: str, _: torch.Tensor) -> None:
        # While the pass still goes on: so the gradients of all weights never exist twice.
        if self.several:
            self._keep(name)

    def forget(self) -> None:
        """Drop all gradients."""
        self.gradients.clear()
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """The norm of the gradient of all passes since the last step, over all workers."""
        gradients = [gradient for _, gradient in self._gradients()]
        norms = torch._foreach_norm(gradients, 2, dtype=torch.float32) if gradients else ()
        squares = torch.stack(norms).double().square() if norms else torch.zeros(1)
        return math.sqrt(self.group.sum([float(squares.sum())])[0])

    @torch.no_grad()
    def step(self, rate: float, norm: float, max_norm: float) -> None:
        """Move the weights against the gradient, clipped from `norm` to `max_norm`, and forget it."""
        scale = min(1.0, max_norm / (norm + 1e-6))
        for blocks in self._blocks():
            _move(*map(list, zip(*blocks, strict=True)), rate=rate, scale=scale)
        self.forget()

    def _blocks(self) -> Iterator[list[tuple[torch.Tensor, ...]]]:
        """What moves together: parts of a parameter, its weights, its squares and its gradient, each of one dimension.

        A single block on a CPU, all blocks of many weights on a GPU.
        """
        together: list[tuple[torch.Tensor, ...]] = []
        for name, gradient in self._gradients():
            tensors = (self.parameters[name].detach(), self.weights[name], self.squares[name], gradient)
            flat = [local(tensor).view(-1) for tensor in tensors]
            on_cpu = gradient.device.type == "cpu"
            for block in zip(*(tensor.split(_BLOCK if on_cpu else _TOGETHER) for tensor in flat), strict=True):
                if together and (on_cpu or sum(len(b[0]) for b in together) + len(block[0]) > _TOGETHER):
                    yield together
                    together = []
                together.append(block)
        if together:
            yield together

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds, by name; loading into these tensors restores it (see `loaded`)."""
        weights = {f"weights/{name}": weight for name, weight in self.weights.items()}
        return weights | {f"squares/{name}": square for name, square in self.squares.items()}

    @torch.no_grad()
    def loaded(self) -> None:
        """Give the model the weights that were loaded into the state."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.weights[name])

    def _gradients(self) -> Iterator[tuple[str, torch.Tensor]]:
        # A single pass leaves its gradients in the parameters: no float32 copy of them is needed.
        for name, parameter in self.parameters.items():
            if name in self.gradients:
                yield name, self.gradients[name]
            elif parameter.grad is not None:
                yield name, local(parameter.grad)


def _move(
    parameters: list[torch.Tensor],
    weights: list[torch.Tensor],
    squares: list[torch.Tensor],
    gradients: list[torch.Tensor],
    *,
    rate: float,
    scale: float,
) -> None:
    scaled = torch._foreach_mul([gradient.float() for gradient in gradients], scale)
    torch._foreach_mul_(squares, ALPHA)
    torch._foreach_addcmul_(squares, scaled, scaled, 1 - ALPHA)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, EPSILON)
    torch._foreach_addcdiv_(weights, scaled, roots, -rate)
    if parameters[0].data_ptr() != weights[0].data_ptr():
        torch._foreach_copy_(parameters, weights)
