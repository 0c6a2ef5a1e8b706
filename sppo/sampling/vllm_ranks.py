"""vLLM's engine on a CPU without the ranks of tokens, which nobody here reads.

With each sampled token's log-probability vLLM gives how many tokens were as likely (vllm/v1/sample/sampler.py,
`gather_logprobs`, 0.32). To count them costs two passes over all logits: a tenth of the time of a step with a
vocabulary of 49,152.
"""

from __future__ import annotations

import torch
from vllm.v1.sample import sampler


def leave_ranks_out() -> None:
    """Have every engine of this process give 0 for each rank."""
    sampler.batched_count_greater_than = _zeros


def _zeros(logprobs: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(logprobs), dtype=torch.int64, device=logprobs.device)
