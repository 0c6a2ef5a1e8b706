"""vLLM's own RMS norms for its CPU backend, which computes them in plain torch.

vLLM has kernels for both of its operations (`torch.ops._C`, 0.32), but offers them to GPUs alone
(vllm/kernels/vllm_c.py). Importing this module registers them for a CPU; `PRIORITY` has an engine use them. They
multiply by the weight before they round, and so are nearer to the exact norm than plain torch is. But on processors
without bfloat16 they cut what they should round to it (`csrc/cpu/cpu_types_x86.hpp`), and plain torch is nearer.

Its kernel for SiLU (`silu_and_mul`) takes three times as long as plain torch, and stays unused.
"""

from __future__ import annotations

import torch
from vllm import ir
from vllm.platforms import current_platform

from sppo.config.sections.arithmetic import PROCESSOR, has_bfloat16

PRIORITY = {"rms_norm": ["cpu_kernel"], "fused_add_rms_norm": ["cpu_kernel"]}
"""What `vllm.LLM` is told as `ir_op_priority`; vLLM appends plain torch, which takes what the kernels do not."""
_WIDTH = 8
"""Numbers that the kernels take at a time."""

ROUNDS = has_bfloat16(PROCESSOR)
"""Whether the kernels round to bfloat16 here."""

current_platform.import_kernels()


def _takes(x: torch.Tensor, weight: torch.Tensor | None, variance_size: int | None) -> bool:
    same = weight is None or weight.dtype == x.dtype
    return (
        same
        and (ROUNDS or x.dtype != torch.bfloat16)
        and variance_size is None
        and x.shape[-1] % _WIDTH == 0
        and x.is_contiguous()
    )


def _takes_norm(x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return _takes(x, weight, variance_size)


def _takes_sum(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    return _takes(x, weight, variance_size) and x_residual.dtype == x.dtype and x_residual.is_contiguous()


@ir.ops.rms_norm.register_impl("cpu_kernel", supports_args=_takes_norm, supported=hasattr(torch.ops._C, "rms_norm"))
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
) -> torch.Tensor:
    """The norm of each row of `x`, times `weight`; see `vllm.ir.ops.rms_norm`."""
    output = torch.empty_like(x)
    torch.ops._C.rms_norm(output, x, weight, epsilon)
    return output


@ir.ops.fused_add_rms_norm.register_impl(
    "cpu_kernel",
    supports_args=_takes_sum,
    supported=hasattr(torch.ops._C, "fused_add_rms_norm"),
    inplace=True,
)
def fused_add_rms_norm(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of `x + x_residual`, and that sum, in place; see `vllm.ir.ops.fused_add_rms_norm`."""
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual
