"""Forward and backward of the all-action loss: in tiles (ours), as a matrix, and as a checkpointed loop over anchors.

The size is anchors x candidates. With 10 anchors and 10 targets per user, there are equally many of both.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.padded import naive_loss
from benchmarks.ratios import Ratio, Target
from models.towers.losses import Candidates, all_action_info_nce

THREADS, WIDTH, SAMPLED, SCALE = 2, 64, 10, 14.0
CHUNK_USERS = 64

CHECK = "benchmarks.loss:check"
BENCH = Benchmark(
    name="loss",
    sizes=(2.0**26, 2.0**28),
    quick_sizes=(2.0**20, 2.0**22),
    prepare="benchmarks.loss:prepare",
    contenders=(
        Contender("ours", "benchmarks.loss:ours", CHECK),
        Contender("naive", "benchmarks.loss:naive", CHECK),
        Contender("checkpointed", "benchmarks.loss:checkpointed", CHECK),
    ),
    ratios=(
        Ratio("naive", "ours", Target(">=", 2.0), at=2.0**28),
        Ratio("checkpointed", "ours"),
        Ratio("ours", "naive", Target("<=", 0.1), measure="loss_mb", at=2.0**28),
        Ratio("ours", "checkpointed", measure="loss_mb"),
    ),
)


def prepare(task: Task) -> None:
    """Nothing: vectors are drawn from a seed."""


def ours(task: Task) -> None:
    """This project's loss."""
    _measure(task, _tiled)


def naive(task: Task) -> None:
    """The matrix of all logits, with plain autograd."""
    _measure(task, naive_loss)


def checkpointed(task: Task) -> None:
    """A loop over chunks of users; each chunk is recomputed in the backward pass."""
    _measure(task, _checkpointed)


def check(task: Task) -> None:
    """Loss and gradient norms to four digits, which do not depend on the order of fp32 sums."""
    figures = np.load(task.output / "figures.npy")
    task.figures["checksum"] = " ".join(f"{value:.3e}" for value in figures)


@contextmanager
def peak_growth(task: Task, name: str) -> Iterator[None]:
    """Records, in MiB, how far the process's resident size rose during the block above its value before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak, which imports have raised
    before = _resident_kb("VmRSS")
    yield
    task.figures[name] = (_resident_kb("VmHWM") - before) / 1024


def _resident_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _measure(task: Task, loss: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    torch.set_num_threads(THREADS)
    warm = _vectors(64)
    loss(*warm, SCALE).backward()
    leaves = _vectors(math.ceil(math.sqrt(task.size) / SAMPLED))
    with peak_growth(task, "loss_mb"), task.clock():
        value = loss(*leaves, SCALE)
        value.backward()
    task.output.mkdir(parents=True)
    np.save(task.output / "figures.npy", [value.item(), *(leaf.grad.norm().item() for leaf in leaves)])


def _vectors(users: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(users)
    drawn = (torch.randn(users, SAMPLED, WIDTH, generator=generator) for _ in range(2))
    return [F.normalize(vectors, dim=-1).requires_grad_() for vectors in drawn]


def _tiled(anchor_BNK: Tensor, target_BTK: Tensor, scale: float) -> Tensor:
    user_B, all_BN = torch.arange(len(anchor_BNK)), torch.ones(anchor_BNK.shape[:2], dtype=torch.bool)
    candidates = Candidates.in_batch(target_BTK, all_BN, user_B)
    return all_action_info_nce(anchor_BNK, target_BTK, all_BN, all_BN, scale, candidates, user_B)


def _checkpointed(anchor_BNK: Tensor, target_BTK: Tensor, scale: float) -> Tensor:
    candidate_MK, total = target_BTK.flatten(0, 1), 0.0

    def chunk(anchor_bNK: Tensor, target_bTK: Tensor, candidate_MK: Tensor, start: int) -> Tensor:
        scaled_bNK = anchor_bNK * scale
        own_bM = (torch.arange(len(candidate_MK)) // SAMPLED) == torch.arange(start, start + len(anchor_bNK))[:, None]
        logit_bNM = (scaled_bNK @ candidate_MK.T).masked_fill(own_bM[:, None], -torch.inf)
        return F.softplus(logit_bNM.logsumexp(-1)[:, :, None] - scaled_bNK @ target_bTK.transpose(1, 2)).sum()

    for start in range(0, len(anchor_BNK), CHUNK_USERS):
        rows = slice(start, start + CHUNK_USERS)
        parts = (anchor_BNK[rows], target_BTK[rows], candidate_MK, start)
        total = total + checkpoint(chunk, *parts, use_reentrant=False)
    return total / (len(anchor_BNK) * SAMPLED**2)


if __name__ == "__main__":
    sys.exit(main(BENCH))
