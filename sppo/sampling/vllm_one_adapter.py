"""vLLM's adapters on a CPU, for an engine in which every request has the same one.

vLLM's own (vllm/lora/ops/torch_ops/lora_ops.py, 0.32) copy the adapter's matrices once a token, so that each may have
another adapter: sampling takes many times as long. With one adapter it is two matrix products a layer, as peft computes
it in the trainer.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


class OneAdapter(PunicaWrapperCPU):
    """Adds one adapter to all tokens, or none."""

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add the adapter's part to a layer's outputs, in place.

        Args:
            y: outputs of the layer, or of several layers side by side, shape (tokens, sum of outputs).
            x: inputs, shape (tokens, inputs).
            lora_a_stacked: of each of the layers, shape (1, 1, rank, inputs).
            lora_b_stacked: the same, shape (1, 1, outputs, rank).
            scale: factor of the change.
            output_slices: outputs of each of the layers.
        """
        if int(self.token_lora_indices[0]) < 0:
            return
        rows, outputs = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1]).split(output_slices, dim=-1)
        for output, down, up in zip(outputs, lora_a_stacked, lora_b_stacked, strict=True):
            small = torch.nn.functional.linear(rows, down[0, 0])
            output.add_(torch.nn.functional.linear(small, up[0, 0]), alpha=scale)


def use_one_adapter() -> None:
    """Have vLLM's engines of this process compute adapters so; call it on a CPU, before an engine is made."""
    name = f"{OneAdapter.__module__}.{OneAdapter.__qualname__}"
    type(current_platform).get_punica_wrapper = classmethod(lambda _: name)
