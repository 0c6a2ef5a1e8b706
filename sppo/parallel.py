"""One process or many: the workers of a training, what they tell one another, and how they divide a model.

`torchrun` starts the same command on every GPU of every node; the environment that it sets says who is who. A single
process is the same program without anybody to talk to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")


class Workers:
    """The processes of one training, seen from one of them."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and commits."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all workers, place by place."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it is so for any worker."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, item: Item) -> list[Item]:
        """The items of all workers, in the order of their ranks."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    @contextmanager
    def first_of_node_goes_ahead(self) -> Iterator[None]:
        """Let one worker of each node do what the others then find done, such as a download."""
        ahead = int(os.environ.get("LOCAL_RANK", "0")) == 0
        if not ahead:
            self.gather(None)
        yield
        if ahead:
            self.gather(None)


@contextmanager
def workers() -> Iterator[Workers]:
    """Join the workers that torchrun started, or be alone."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers(0, 1, accelerator or torch.device("cpu"))
        return
    device = torch.device("cpu")
    if accelerator is not None:
        device = torch.device(accelerator.type, int(os.environ["LOCAL_RANK"]))
        torch.accelerator.set_device_index(device.index)
    dist.init_process_group()
    try:
        yield Workers(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def shard(scorer: torch.nn.Module, blocks: Sequence[str], group: Workers, dtype: torch.dtype) -> None:
    """Divide a float32 model among the workers (FSDP2): each keeps a part and gathers a block while it computes it.

    Args:
        scorer: the whole model; divided in place.
        blocks: class names of its repeated blocks.
        group: the workers.
        dtype: of the computation; weights and summed gradients stay float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(group.device.type, (group.size,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in scorer.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(scorer, mesh=mesh, mp_policy=policy)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This worker's part of a tensor."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from all workers' parts, on the CPU; every worker must ask."""
    from torch.distributed.tensor import DTensor

    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
