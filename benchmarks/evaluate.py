"""Ranks of 10,000 users' targets among all items, 64 dimensions: counted in tiles (ours), and by blocks of users.

The size is the number of items. `matmul` computes only the products of the same tiles and throws them away.
"""

import sys

import numpy as np
import torch

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.loss import peak_growth
from benchmarks.ratios import Ratio, Target
from models.metrics.ranks import TILE, target_ranks

THREADS, WIDTH = 2, 64
USERS = {True: 1000, False: 10_000}
BLOCK_USERS = 16  # users whose scores of a million items take 64 MB

RANKS = "benchmarks.evaluate:check_ranks"
BENCH = Benchmark(
    name="evaluate",
    sizes=(250e3, 1e6),
    quick_sizes=(10e3, 40e3),
    prepare="benchmarks.evaluate:prepare",
    contenders=(
        Contender("ours", "benchmarks.evaluate:ours", RANKS),
        Contender("blocks", "benchmarks.evaluate:blocks", RANKS),
        Contender("matmul", "benchmarks.evaluate:matmul", "benchmarks.evaluate:check_products"),
    ),
    ratios=(Ratio("matmul", "ours", Target(">=", 0.8)), Ratio("blocks", "ours")),
)


def prepare(task: Task) -> None:
    """Nothing: embeddings are drawn from a seed."""


def ours(task: Task) -> None:
    """This project's ranks."""
    user_BK, item_IK, target_P2 = _inputs(task)
    bias_I = torch.zeros(len(item_IK))
    with peak_growth(task, "rank_mb"), task.clock():
        rank_P = target_ranks(user_BK, item_IK, bias_I, target_P2)
    _write(task, rank_P)


def blocks(task: Task) -> None:
    """All scores of a few users at a time, compared and counted."""
    user_BK, item_IK, target_P2 = _inputs(task)
    target_B, ranks = torch.from_numpy(target_P2[:, 1]), []
    with peak_growth(task, "rank_mb"), task.clock():
        for user_bK, target_b in zip(user_BK.split(BLOCK_USERS), target_B.split(BLOCK_USERS), strict=True):
            score_bI = user_bK @ item_IK.T
            ranks.append((score_bI >= score_bI.gather(1, target_b[:, None])).sum(1))
    _write(task, torch.cat(ranks).numpy())


def matmul(task: Task) -> None:
    """Only the products."""
    user_BK, item_IK, _ = _inputs(task)
    with peak_growth(task, "rank_mb"), task.clock():
        for user_bK in user_BK.split(TILE[0]):
            score_bw = torch.empty(len(user_bK), TILE[1])
            for item_wK in item_IK.split(TILE[1]):
                torch.mm(user_bK, item_wK.T, out=score_bw[:, : len(item_wK)])
    _write(task, np.array([len(user_BK) * len(item_IK)]))


def check_ranks(task: Task) -> None:
    """The mean rank to four digits. Products of other shapes round differently, which moves single ranks by one."""
    task.figures["checksum"] = f"{np.load(task.output / 'ranks.npy').mean():.3e}"


def check_products(task: Task) -> None:
    """The number of products."""
    task.figures["checksum"] = str(np.load(task.output / "ranks.npy")[0])


def _inputs(task: Task) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(0)
    users, items = USERS[task.quick], int(task.size)
    user_BK = torch.randn(users, WIDTH, generator=generator)
    item_IK = torch.randn(items, WIDTH, generator=generator)
    target_B = torch.randint(items, (users,), generator=generator).numpy()
    target_ranks(user_BK[:300], item_IK[:5000], torch.zeros(5000), np.zeros((1, 2), np.int64))  # warms the threads
    return user_BK, item_IK, np.stack([np.arange(users), target_B], axis=1)


def _write(task: Task, rank_P: np.ndarray) -> None:
    task.output.mkdir(parents=True)
    np.save(task.output / "ranks.npy", rank_P)


if __name__ == "__main__":
    sys.exit(main(BENCH))
