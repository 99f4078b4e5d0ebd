"""The checkpoint from which a killed training resumes: one safetensors file with JSON in its header.

It holds no random state, because every draw is a function of seed, rank and step (`step_seed`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.contract.content_matrix import META
from models.contract.failures import BadInput
from models.contract.settings import identity
from models.contract.snapshot import MANIFEST
from models.contract.training_specs import TrainingSpec
from models.contract.whole_files import write_whole
from models.training.distributed import Ranks

FORMAT_VERSION = 1
CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Position:
    """The progress of a training.

    Attributes:
        fingerprint: hash of spec and data; a checkpoint with another fingerprint is ignored.
        step, epoch, batches: number of steps done; the current epoch, and the number of its batches done.
        samples: number of rows seen.
        seconds: time spent so far, without the time between a kill and the next start.
        best, best_step, misses, evaluated: for early stopping: the best metrics and their step, the number of
            evaluations since then without a better one, the step of the last evaluation.
        log_bytes: length of metrics.jsonl.
    """

    fingerprint: str
    step: int = 0
    epoch: int = 0
    batches: int = 0
    samples: int = 0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    best_step: int = 0
    misses: int = 0
    evaluated: int = -1
    log_bytes: int = 0


def fingerprint_of(spec: TrainingSpec, snapshots: list[Path], ranks: Ranks) -> str:
    """A hash of what a training depends on: spec, number of ranks, manifests of snapshots and texts, the matrix's meta.

    It ignores folders and settings that do not affect what is learned; these may change before a training resumes.
    """
    told = {"spec": identity(spec), "ranks": ranks.size}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    files = [folder / MANIFEST for folder in snapshots]
    if matrix := getattr(spec, "content_matrix", None):
        files.append(matrix / META)
    if texts := getattr(spec, "item_texts", None):
        files.append(texts / MANIFEST)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def step_seed(*position: int) -> int:
    """A seed derived from the given numbers (seed, rank, step, …) only."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0]) >> 1


def save_checkpoint(
    folder: Path,
    position: Position,
    state: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replace the checkpoint in `folder`, whole or not at all.

    Args:
        folder: the model's folder.
        position: the training's progress.
        state, best: the model's weights, and those of its best evaluation.
        optimizer: its moments are saved. Learning rates follow from the step.
    """
    moments = optimizer.state_dict()["state"]
    tensors = {f"model.{name}": value for name, value in state.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    tensors |= {f"optimizer.{i}.{name}": value for i, values in moments.items() for name, value in values.items()}
    about = {"format_version": FORMAT_VERSION, "position": asdict(position)}
    # Cloned, because safetensors refuses weights that share memory.
    saved = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    told = json.dumps(about)
    metadata = {"training": told, "sha256": _digest(told, saved)}
    write_whole(folder / CHECKPOINT, lambda partial: save_file(saved, partial, metadata=metadata))


def load_checkpoint(folder: Path, fingerprint: str) -> tuple[Position, dict[str, dict[str, Tensor]]] | None:
    """The checkpoint in `folder`; None if there is none, or only that of another training.

    Returns:
        The position, and tensors by name in the groups `model`, `best` and `optimizer`.

    Raises:
        BadInput: the file is damaged or no checkpoint.
    """
    file = folder / CHECKPOINT
    try:
        with safe_open(file, framework="pt") as handle:
            header = handle.metadata() or {}
            about = json.loads(header.get("training", "null"))
            if not isinstance(about, dict) or about.get("format_version") != FORMAT_VERSION:
                raise ValueError(f"it is not of format version {FORMAT_VERSION}")
            position = Position(**about["position"])
            if position.fingerprint != fingerprint:
                return None
            saved = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 - not a dict
            if header.get("sha256", "") not in ("", _digest(header["training"], saved)):  # earlier releases wrote none
                raise ValueError("its bytes have changed since they were written")
            groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
            for key, tensor in saved.items():
                group, _, name = key.partition(".")
                groups[group][name] = tensor
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"checkpoint {file}: damaged or foreign ({error}); delete it to start anew") from None
    return position, groups


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a checkpoint's content; safetensors itself has no checksum."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def restore_optimizer(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Restore saved moments; the optimizer's parameters must be the same as when they were saved."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
