"""Forward and backward of the user tower's transformer on sequences that are half padding: packed, and padded.

The size is the model's width: 128 with 2 layers (as in the demo), 384 with 6. Lengths are uniform in 1 .. 80.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.padded import Padded
from benchmarks.ratios import Ratio, Target
from models.layers.packing import Packing
from models.layers.transformer import CausalTransformer

THREADS, LENGTH, HEAD_WIDTH = 2, 80, 32
LAYERS = {128: 2, 384: 6}
TOKENS = 120 * LENGTH
STEPS = 3

CHECK = "benchmarks.towers:check"
BENCH = Benchmark(
    name="towers",
    sizes=(128, 384),
    quick_sizes=(128,),
    prepare="benchmarks.towers:prepare",
    contenders=(
        Contender("packed", "benchmarks.towers:packed", CHECK),
        Contender("padded", "benchmarks.towers:padded", CHECK),
    ),
    ratios=(Ratio("padded", "packed", Target(">=", 1.6)),),
)


def prepare(task: Task) -> None:
    """Nothing: inputs are drawn from a seed."""


def packed(task: Task) -> None:
    """This project's packing: real tokens only, attention by groups of similar length."""
    _measure(task, Packing)


def padded(task: Task) -> None:
    """All rows at full length."""
    _measure(task, lambda length_B: Padded(length_B, LENGTH))


def check(task: Task) -> None:
    """Norms, to four digits, of the outputs at the sequences' ends and of gradients of inputs and weights."""
    task.figures["checksum"] = " ".join(f"{value:.3e}" for value in np.load(task.output / "figures.npy"))


def _measure(task: Task, pack: Callable[[Tensor], Packing | Padded]) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    width = int(task.size)
    model = CausalTransformer(width, LAYERS[width], width // HEAD_WIDTH, 0.0, LENGTH)
    length_B = torch.randint(1, LENGTH + 1, (TOKENS // LENGTH,))
    x_BLD = torch.randn(len(length_B), LENGTH, width, requires_grad=True)
    _step(model, pack, x_BLD, length_B)
    with task.clock():
        for _ in range(STEPS):
            end_BD = _step(model, pack, x_BLD, length_B)
    tensors = (end_BD, x_BLD.grad, model.blocks[0].attention.qkv.weight.grad)
    task.output.mkdir(parents=True)
    np.save(task.output / "figures.npy", [tensor.norm().item() for tensor in tensors])


def _step(
    model: CausalTransformer, pack: Callable[[Tensor], Packing | Padded], x_BLD: Tensor, length_B: Tensor
) -> Tensor:
    model.zero_grad()
    x_BLD.grad = None
    packing = pack(length_B)
    end_BD = model(packing.packed(x_BLD), packing)[packing.at(length_B[:, None] - 1)][:, 0]
    end_BD.square().mul(torch.linspace(0, 1, end_BD.shape[1])).sum().backward()
    return end_BD


if __name__ == "__main__":
    sys.exit(main(BENCH))
