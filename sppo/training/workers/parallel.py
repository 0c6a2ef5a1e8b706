"""One process or many: the workers of a training, what they tell one another, and how they divide a model.

`torchrun` starts the same command on every GPU of every node; the environment that it sets says who is who. A single
process is the same program without anybody to talk to.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from sppo.errors import InfrastructureError

if TYPE_CHECKING:
    from sppo.models.network.logprobs import ResponseLogprobs

Item = TypeVar("Item")
PATIENCE = timedelta(hours=2)
"""For a worker that the others wait for, as it downloads or uploads a model."""
GRACE = 30.0
"""Seconds that a worker whose peer is gone waits to be ended."""
_PEER_GONE = re.compile("closed by peer|reset by peer|Broken pipe|[Tt]imed out|[Tt]imeout|remote process exited")
"""What gloo and NCCL say; they have no exception class for it."""


class Workers:
    """The processes of one training, seen from one of them."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.told: Callable[[], int] = lambda: 0
        """Asks which signal told this worker to stop, where it takes note of them; 0 if none."""

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and commits."""
        return self.rank == 0

    def say(self, line: str) -> None:
        """Print a line, once for all."""
        if self.first:
            print(line, flush=True)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all workers, place by place."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def most(self, value: int) -> int:
        """The largest value of any worker."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

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


def first_of_all() -> bool:
    """Whether this process, of those that torchrun started or alone, is the one that speaks for all."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ["RANK"] == "0"


@contextmanager
def workers() -> Iterator[Workers]:
    """Join the workers that torchrun started, or be alone.

    Raises:
        InfrastructureError: if a peer is gone and nobody ends this worker because of that.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers(0, 1, accelerator or torch.device("cpu"))
        return
    device = torch.device("cpu")
    if accelerator is not None:
        device = torch.device(accelerator.type, int(os.environ["LOCAL_RANK"]))
        torch.accelerator.set_device_index(device.index)
    dist.init_process_group(timeout=PATIENCE)
    group = Workers(dist.get_rank(), dist.get_world_size(), device)
    try:
        yield group
    except RuntimeError as error:
        if not _PEER_GONE.search(str(error)):
            raise
        # What ended the peer is the cause that torchrun must see first; then it ends this process too.
        if not group.told():
            time.sleep(GRACE)
        raise InfrastructureError(f"worker {group.rank}: {str(error).splitlines()[0]}; resume") from error
    dist.destroy_process_group()  # not after a failure: it would wait for peers that are gone


def spread(scorer: ResponseLogprobs, blocks: Sequence[str], group: Workers, dtype: torch.dtype) -> None:
    """Divide a model among the workers (FSDP2): each keeps a part and gathers a block while it computes it.

    Args:
        scorer: the first worker's whole float32 model; the others' on the meta device, without weights. It is divided
            in place, and each worker gets its part on its device.
        blocks: class names of its repeated blocks.
        group: the workers.
        dtype: of the computation; weights and summed gradients stay float32.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    weights = dict(scorer.state_dict()) if group.first else {}
    mesh = init_device_mesh(group.device.type, (group.size,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in scorer.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(scorer, mesh=mesh, mp_policy=policy)
    if not group.first:
        scorer.to_empty(device=group.device)
        scorer.model.tie_weights()
    for buffer in scorer.buffers():  # such as the frequencies of rotary embeddings, which no file of weights holds
        dist.broadcast(buffer, src=0)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(scorer, weights, options=options)


def forget_gathered(scorer: torch.nn.Module) -> None:
    """Have the blocks of a divided model gathered anew, after the weights were changed but by a backward pass."""
    from torch.distributed.fsdp import FSDPModule

    for module in scorer.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This worker's part of a tensor."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from all workers' parts, on the CPU; every worker must ask."""
    from torch.distributed.tensor import DTensor

    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
