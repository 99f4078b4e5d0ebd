"""Upper limits of this machine, measured in the same run as the figures that they are shown with."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

THREADS = 2
REPEATS = 5


def measure_rooflines(folder: Path, quick: bool) -> dict[str, float]:
    """Memory copy and disk write in GB/s (10^9 bytes), fp32 matrix product in GFLOP/s; each the best of five runs.

    Args:
        folder: a folder on the disk that the benchmark writes to.
        quick: do a small fraction of the work, for rougher figures.
    """
    return {
        "memory_copy_gb_s": round(_memory_copy(32 if quick else 256), 2),
        "disk_write_gb_s": round(_disk_write(folder / "roofline.bin", 32 if quick else 512), 2),
        "matmul_gflop_s": round(_matmul(512 if quick else 2048), 1),
    }


def _memory_copy(megabytes: int) -> float:
    """GB/s copied by two threads; each byte counts once, not for both reading and writing."""
    source = np.ones((THREADS, megabytes << 17))
    target = np.zeros_like(source)
    with ThreadPoolExecutor(THREADS) as pool:
        seconds = _best(lambda: list(pool.map(np.copyto, target, source)))
    return source.nbytes / seconds / 1e9


def _disk_write(path: Path, megabytes: int) -> float:
    block = np.random.default_rng(0).bytes(1 << 20)

    def write() -> None:
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    seconds = _best(write)
    path.unlink()
    return (megabytes << 20) / seconds / 1e9


def _matmul(width: int) -> float:
    left, right = np.random.default_rng(0).random((2, width, width), dtype=np.float32)
    with threadpool_limits(THREADS):
        seconds = _best(lambda: left @ right)
    return 2 * width**3 / seconds / 1e9


def _best(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
