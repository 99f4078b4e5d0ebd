"""Training one model in several processes: their ranks, and the values that they exchange.

Shapes: B rows of a rank, G = ranks * B rows of all ranks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from models.contract.failures import BadInput
from models.contract.result import is_launched
from models.training.device import uses_gpu


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and the number of processes that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that evaluates and writes."""
        return self.rank == 0


@contextmanager
def joined(device: str, timeout_seconds: float) -> Iterator[Ranks]:
    """Joins the process group of the ranks that torchrun started: nccl if each has a GPU, gloo otherwise.

    Without torchrun there is only this process.

    Args:
        device: `train.device`.
        timeout_seconds: an exchange that takes longer raises an error, because a rank must have died.

    Raises:
        BadInput: there are more ranks than GPUs on this machine.
    """
    if not is_launched():
        yield Ranks()
        return
    if uses_gpu(device):
        rank, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if rank >= there:
            raise BadInput(f"rank {rank} of this machine has no GPU of its own, there are {there}: start {there} ranks")
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if uses_gpu(device) else "gloo", timeout=timedelta(seconds=timeout_seconds))
    yield Ranks(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an error: it would wait for ranks that are gone


def gathered(local_B: Tensor) -> Tensor:
    """The rows of all ranks, in the order of the ranks, [G, ...]; gradients flow back to the rank of each row.

    All ranks must pass the same shape. Without other ranks it returns the tensor itself.
    """
    return _Gather.apply(local_B) if dist.is_initialized() else local_B


def global_mean(mean: Tensor, weight: Tensor) -> Tensor:
    """A loss whose average over the ranks is the mean over the rows of all ranks.

    Args:
        mean: weighted mean over this rank's rows, a scalar.
        weight: the sum of these rows' weights.
    """
    if not dist.is_initialized():
        return mean
    weight = weight.detach().to(mean.dtype)
    total = weight.clone()
    dist.all_reduce(total)
    return mean * (weight * dist.get_world_size() / total.clamp(min=torch.finfo(mean.dtype).tiny))


def averaged(values: list[float], device: torch.device) -> list[float]:
    """Each value averaged over the ranks."""
    if not dist.is_initialized():
        return values
    mean = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(mean)
    return (mean / dist.get_world_size()).tolist()


def agreed(is_so: bool, device: torch.device) -> bool:
    """The first rank's value of `is_so`, on all ranks."""
    if not dist.is_initialized():
        return is_so
    said = torch.tensor([int(is_so)], device=device)
    dist.broadcast(said, src=0)
    return bool(said.item())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, local_B: Tensor) -> Tensor:
        all_G = local_B.new_empty(dist.get_world_size() * len(local_B), *local_B.shape[1:])
        dist.all_gather_into_tensor(all_G, local_B.contiguous())
        return all_G

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad_G: Tensor) -> Tensor:
        grad_B = grad_G.new_empty(len(grad_G) // dist.get_world_size(), *grad_G.shape[1:])
        dist.reduce_scatter_tensor(grad_B, grad_G.contiguous())
        return grad_B
