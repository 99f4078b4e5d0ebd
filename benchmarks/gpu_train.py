"""Training steps of the paper's towers on one GPU: samples/s, share of the matmul rate, memory of the loss.

    python -m benchmarks.gpu_train                      # 12 x 768, H = 80, T = 40, batches of 240 to 1920
    python -m benchmarks.gpu_train --device cpu --d-model 32 --layers 1 --heads 2 --batches 4 --steps 2

Needs only torch and this repository. At every batch size it runs the packed towers with the tiled loss (ours), the
padded towers, and the naive loss, on the same weights and data; it also measures the matmul rate. Prints a JSON
object. A step is forward, backward and AdamW, under bf16 autocast on CUDA.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.padded import Padded, naive_loss
from models.contract.settings import TowersConfig
from models.layers.packing import Packing
from models.towers.losses import Candidates, all_action_info_nce
from models.towers.towers import Towers

HISTORY, TARGETS, SAMPLED, CONTENT_DIM = 80, 40, 10, 4096
MATMUL_WIDTH = {"cuda": 8192, "cpu": 512}
CONTENDERS = {"ours": (False, False), "padded_towers": (True, False), "naive_loss": (False, True)}


class Batch:
    """A random batch: half of the positions are padding; every user has SAMPLED anchors and targets."""

    def __init__(self, users: int, content_dim: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(users)
        draw = partial(torch.randint, generator=generator)
        items = min(50_000, users * (HISTORY + TARGETS) // 2)
        self.content_UC = torch.randn(items, content_dim, generator=generator).to(device)
        self.item_U = torch.arange(1, items + 1, device=device)
        # Lengths are at least SAMPLED; on average (10 + 70) / 2 = 40 of 80 and (10 + 30) / 2 = 20 of 40.
        self.hist_len_B, self.tar_len_B = draw(SAMPLED, HISTORY - 9, (users,)), draw(SAMPLED, TARGETS - 9, (users,))
        self.hist_BH, self.tar_BT = (draw(items, (users, n)).to(device) for n in (HISTORY, TARGETS))
        self.at_BN = torch.arange(SAMPLED, device=device).expand(users, -1)
        self.user_B = torch.arange(users, device=device)
        self.tokens = int(self.hist_len_B.sum() + self.tar_len_B.sum())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns exit code 2 if the device is missing."""
    options = _options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu_train: no CUDA device; --device cpu with small sizes tries the script", file=sys.stderr)
        return 2
    print(json.dumps(measure(options), indent=2))
    return 0


def measure(options: argparse.Namespace) -> dict[str, object]:
    """The figures of all contenders at all batch sizes; a contender that runs out of memory has none there."""
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")  # TF32 tensor cores for the loss, which computes in fp32
    matmul = matmul_flops(device)
    cases = []
    for users in options.batches:
        batch = Batch(users, options.content_dim, device)
        for name, (is_padded, is_naive) in CONTENDERS.items():
            case = {"contender": name, "batch": users}
            try:
                case |= _case(options, batch, is_padded, is_naive, matmul)
            except torch.OutOfMemoryError:
                case["failure"] = "out of memory"
            cases.append(case)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {"device": name, "torch": torch.__version__, "matmul_tflop_s": matmul / 1e12, "cases": cases}


def matmul_flops(device: torch.device) -> float:
    """FLOP/s of a square bf16 (CPU: fp32) matrix product, the best of five runs."""
    width, dtype = MATMUL_WIDTH[device.type], torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = torch.randn(2, width, width, device=device, dtype=dtype)
    seconds = min(_seconds(lambda: left @ right, device) for _ in range(5))
    return 2 * width**3 / seconds


def step_loss(model: Towers, batch: Batch, is_padded: bool, is_naive: bool) -> tuple[Tensor, float]:
    """The loss, and the MiB that its forward and backward pass add on top of the towers (0 on CPUs).

    The loss is differentiated separately from the towers, so that its memory can be distinguished from theirs.
    """
    input_UC = model.inputs(batch.content_UC, batch.item_U)
    user_BNK = _tower(model, input_UC, batch.hist_BH, batch.hist_len_B, batch.at_BN, is_padded)
    target_BNK = _tower(model, input_UC, batch.tar_BT, batch.tar_len_B, batch.at_BN, is_padded)
    leaves = [vectors.detach().float().requires_grad_() for vectors in (user_BNK, target_BNK)]
    is_cuda = user_BNK.is_cuda
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if is_cuda else 0
    loss = _loss(*leaves, model.scale.detach(), batch, is_naive)
    loss.backward()
    peak = torch.cuda.max_memory_allocated() if is_cuda else 0
    torch.autograd.backward([user_BNK, target_BNK], [leaf.grad.to(user_BNK.dtype) for leaf in leaves])
    return loss.detach(), (peak - before) / 2**20


def _tower(
    model: Towers, input_UC: Tensor, rows_BL: Tensor, length_B: Tensor, at_BN: Tensor, is_padded: bool
) -> Tensor:
    packing = Padded(length_B, rows_BL.shape[1], rows_BL.device) if is_padded else Packing(length_B, rows_BL.device)
    token_ND = model.sequence(F.embedding(packing.packed(rows_BL), model.adaptor(input_UC)), packing)
    return F.normalize(model.head(token_ND[packing.at(at_BN)]), dim=-1)


def _loss(anchor_BNK: Tensor, target_BNK: Tensor, scale: Tensor, batch: Batch, is_naive: bool) -> Tensor:
    if is_naive:
        with torch.autocast(anchor_BNK.device.type, enabled=False):
            return naive_loss(anchor_BNK, target_BNK, scale)
    all_BN = torch.ones_like(batch.at_BN, dtype=torch.bool)
    candidates = Candidates.in_batch(target_BNK, all_BN, batch.user_B)
    return all_action_info_nce(anchor_BNK, target_BNK, all_BN, all_BN, scale, candidates, batch.user_B)


def _case(
    options: argparse.Namespace, batch: Batch, is_padded: bool, is_naive: bool, matmul: float
) -> dict[str, float]:
    device = torch.device(options.device)
    torch.manual_seed(0)
    sizes = {"d_model": options.d_model, "layers": options.layers, "heads": options.heads}
    model = Towers(TowersConfig(**sizes, dropout=0.0), options.content_dim).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> tuple[Tensor, float]:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            found = step_loss(model, batch, is_padded, is_naive)
        optimizer.step()
        return found

    first_loss, loss_mb = step()
    seconds = _seconds(lambda: [step() for _ in range(options.steps)], device) / options.steps
    # Counts only real tokens: 2 FLOP per weight forward and 4 backward; attention's own products are left out.
    flops = 6 * batch.tokens * sum(p.numel() for p in model.sequence.blocks.parameters())
    return {
        "loss": first_loss.item(),
        "samples_per_s": len(batch.user_B) / seconds,
        "share_of_matmul": flops / seconds / matmul,
        "loss_mb": loss_mb,
    }


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_train")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--content-dim", type=int, default=CONTENT_DIM)
    parser.add_argument("--batches", type=int, nargs="+", default=[240, 480, 960, 1920])
    parser.add_argument("--steps", type=int, default=10, help="measured steps after a warm one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
