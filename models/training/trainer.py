"""The training loop that all models of the torch side share."""

import json
import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.contract.failures import BadInput, LossNotFiniteError
from models.contract.result import METRICS, RESULT, write_result
from models.contract.settings import TrainConfig
from models.data.prefetch import prefetched
from models.training.checkpoint import (
    CHECKPOINT,
    Position,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
    step_seed,
)
from models.training.device import device_of, uses_bfloat16
from models.training.distributed import Ranks, agreed, averaged
from models.training.progress_bar import ProgressBar

Batch = dict[str, Tensor]
Metrics = dict[str, Any]
PREFETCHED_BATCHES = 4


class Task(Protocol):
    """What a `Trainer` trains.

    Attributes:
        model: the module.
        metric: name of the evaluation metric that chooses the best state; higher is better.
        keeps_untrained: whether the state before training may count as the best, as when training starts from content
            or from a pretrained model. Random weights never count, however well they happen to score.
    """

    metric: str
    keeps_untrained: bool

    @property
    def model(self) -> nn.Module:
        """See the attributes."""
        ...

    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        ...

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, int]]:
        """Prepared batches of an epoch from number `start` on, in that epoch's order, each with its number of rows.

        Runs in a thread beside the training. Random draws in a batch depend only on seed, rank, epoch and its number.
        """
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Scalar loss of a prepared batch, with the model in training mode."""
        ...

    def evaluate(self) -> Metrics:
        """Validation metrics: numbers, or tables of numbers as lists of dicts, one dict per row."""
        ...

    def save(self, path: Path, state: dict[str, Tensor]) -> None:
        """Write the model with these weights into folder `path`."""
        ...

    def save_last(self, path: Path, state: dict[str, Tensor]) -> Metrics:
        """Write the final model when training is over, from the best state; returns figures about it."""
        ...


@dataclass
class TrainResult:
    """The content of result.json: the best evaluation, what the training took, and the figures of `Task.save_last`."""

    best: Metrics
    best_step: int
    steps: int
    samples: int
    seconds: float
    parameters: int
    stopped: str
    space: Metrics = field(default_factory=dict)


class _Loss(nn.Module):
    """The task's loss as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.model = task, task.model

    def forward(self, batch: Batch) -> Tensor:
        return self.task.loss(batch)


class Trainer:
    """Trains with AdamW, warm-up and cosine schedule, gradient clipping and early stopping; keeps the best state.

    Writes to `out_dir`: the model (whenever a better state is found), metrics.jsonl (a line with `loss`,
    `lr`, `samples_per_s`, `data_wait` every `run.log_every` steps, and a line with the metrics per evaluation),
    a checkpoint while it runs, and at the end result.json. A killed training with the same fingerprint resumes
    from the checkpoint, with the losses that it would have had. Of several ranks, the first evaluates and writes.

    Args:
        task: what to train.
        config: the loop's settings.
        out_dir: a folder, made if it is missing.
        fingerprint: hash of all that the training depends on (`fingerprint_of`).
        ranks: the processes that train together.
    """

    def __init__(
        self, task: Task, config: TrainConfig, out_dir: Path, fingerprint: str, ranks: Ranks | None = None
    ) -> None:
        self.task, self.config, self.out_dir, self.ranks = task, config, out_dir, ranks or Ranks()
        self.device = device_of(config)
        task.model.to(self.device)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bfloat16(config, self.device))
        self.parameters = [p for p in task.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.steps_per_epoch = task.steps_per_epoch()
        self.total_steps = config.epochs * self.steps_per_epoch
        if not self.total_steps:
            raise BadInput("the training snapshot is smaller than one batch")
        self.at = Position(fingerprint)
        self.best_state: dict[str, Tensor] = {}
        self.window = [0.0, 0.0, 0]  # since the last log line: seconds, seconds spent waiting for data, samples
        self.log: TextIO | None = None

    def run(self) -> TrainResult:
        """Train from the start, or resume from the checkpoint.

        Raises:
            LossNotFiniteError: the loss became NaN or infinite; the model folder holds the best state so far.
            BadInput: the checkpoint is damaged, or not all ranks see the same one.
        """
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self._restore()
        if averaged([self.at.step], self.device) != [self.at.step]:
            raise BadInput(f"the ranks do not see the same checkpoint: {self.out_dir} must be on a shared file system")
        self.loss = _Loss(self.task)
        if self.ranks.size > 1:
            self.loss = DistributedDataParallel(self.loss, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.started = self.checkpointed = time.monotonic() - self.at.seconds
        left = self.config.max_seconds and max(0.0, self.config.max_seconds - self.at.seconds)
        with ProgressBar(self.total_steps, self.at.step, left, self.ranks.is_first) as self.progress:
            try:
                stopped = self._trained()
            finally:
                if self.log:
                    self.log.close()
        return self._finished(stopped)

    def _restore(self) -> None:
        found = load_checkpoint(self.out_dir, self.at.fingerprint)
        if found:
            self.at, tensors = found
            self.task.model.load_state_dict(tensors["model"])
            restore_optimizer(self.optimizer, tensors["optimizer"])
            self.best_state = tensors["best"]
        if not self.ranks.is_first:
            return
        for name in (RESULT,) if found else (RESULT, CHECKPOINT):
            (self.out_dir / name).unlink(missing_ok=True)
        self.log = (self.out_dir / METRICS).open("a", encoding="utf-8")
        self.log.truncate(self.at.log_bytes)  # steps after the checkpoint are repeated
        if found:
            self.task.save(self.out_dir, self.best_state)

    def _trained(self) -> str:
        if not self.at.step:
            self._evaluate()
        stopped = "epochs"
        with closing(prefetched(self._stream(), PREFETCHED_BATCHES)) as batches:
            if self.at.step < self.total_steps:
                stopped = self._loop(batches)
        if stopped != "patience" and self.at.step != self.at.evaluated:
            self._evaluate()
        return stopped

    def _stream(self) -> Generator[tuple[Batch, int], None, None]:
        """All remaining batches of all epochs, so that the next epoch's first ones are read before this epoch ends."""
        epoch, start = self.at.epoch, self.at.batches
        while epoch < self.config.epochs:
            yield from self.task.batches(epoch, start)
            epoch, start = epoch + 1, 0

    def _loop(self, batches: Iterator[tuple[Batch, int]]) -> str:
        eval_every = self.config.evaluate_every or self.steps_per_epoch
        waited_from = time.monotonic()
        for batch, num_rows in batches:
            ready = time.monotonic()
            loss, seconds = self._train_step(batch)
            self.at.samples += num_rows * self.ranks.size
            now = time.monotonic()
            self.window[0] += now - waited_from
            self.window[1] += ready - waited_from
            self.window[2] += num_rows * self.ranks.size
            self._report(loss)
            if self.at.step % eval_every == 0 and self._evaluate():
                return "patience"
            self._checkpoint()
            if self.config.max_seconds and seconds > self.config.max_seconds:
                return "max_seconds"
            waited_from = time.monotonic()
        return "epochs"

    def _train_step(self, batch: Batch) -> tuple[float, float]:
        """One step. Returns loss and seconds since the start, averaged over the ranks so that all decide alike."""
        torch.manual_seed(step_seed(self.config.seed, self.ranks.rank, self.at.step))
        self.task.model.train()
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        self._set_learning_rate()
        with self.autocast:
            loss = self.loss(batch)
        value, seconds = averaged([loss.item(), time.monotonic() - self.started], self.device)
        self._require_finite("loss", value)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self._require_finite("gradient's norm", norm.item())
        self.optimizer.step()
        self.at.step += 1
        self.at.epoch, self.at.batches = divmod(self.at.step, self.steps_per_epoch)
        return value, seconds

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            self._write({"step": self.at.step + 1, what: str(value)})
            raise LossNotFiniteError(
                f"{what} is {value} at step {self.at.step + 1}; {self.out_dir} keeps that of step {self.at.best_step}"
            )

    def _evaluate(self) -> bool:
        """Evaluates and keeps the state if it is the best. Returns whether patience has run out."""
        if self.ranks.is_first:
            self.task.model.eval()
            with torch.inference_mode():
                metrics = self.task.evaluate()
            self._write({"step": self.at.step, **metrics})
            self._keep_if_best(metrics)
        self.at.evaluated = self.at.step
        return agreed(self.at.misses >= self.config.patience, self.device)

    def _keep_if_best(self, metrics: Metrics) -> None:
        metric = self.task.metric
        has_best = self.at.best and (self.at.best_step > 0 or self.task.keeps_untrained)
        if has_best and metrics[metric] <= self.at.best[metric]:
            self.at.misses += 1
            return
        self.at.best, self.at.best_step, self.at.misses = metrics, self.at.step, 0
        self.best_state = {name: value.detach().clone() for name, value in self.task.model.state_dict().items()}
        self.task.save(self.out_dir, self.best_state)

    def _checkpoint(self) -> None:
        every_steps, every_seconds = self.config.run.checkpoint_steps, self.config.run.checkpoint_seconds
        now = time.monotonic()
        is_due = (every_steps and self.at.step % every_steps == 0) or now - self.checkpointed >= every_seconds
        if not (is_due and self.ranks.is_first):
            return
        assert self.log is not None, "the first rank writes the log"
        self.at.seconds, self.at.log_bytes = now - self.started, self.log.tell()
        save_checkpoint(self.out_dir, self.at, self.task.model.state_dict(), self.best_state, self.optimizer)
        self.checkpointed = time.monotonic()

    def _report(self, loss: float) -> None:
        if not self.ranks.is_first:
            return
        seconds, waited, rows = self.window
        seconds = max(seconds, 1e-9)
        speed = {"samples_per_s": round(rows / seconds, 1), "data_wait": round(waited / seconds, 4)}
        if self.at.step % self.config.run.log_every == 0 or self.at.step == 1:
            lr = self.optimizer.param_groups[0]["lr"]
            self._write({"step": self.at.step, "loss": loss, "lr": lr} | speed)
            self.window = [0.0, 0.0, 0]
        best = f"{self.task.metric} {self.at.best[self.task.metric]:.4f}"
        waiting = f"{speed['samples_per_s']:.0f} samples/s, {speed['data_wait']:.0%} waiting for data"
        self.progress(f"loss {loss:.4f}, best {best} at {self.at.best_step}, {waiting}")

    def _write(self, line: Metrics | dict[str, float | str]) -> None:
        if self.log:
            self.log.write(json.dumps(line | {"seconds": round(time.monotonic() - self.started, 3)}) + "\n")
            self.log.flush()

    def _finished(self, stopped: str) -> TrainResult:
        count = sum(p.numel() for p in self.parameters)
        seconds, at = time.monotonic() - self.started, self.at
        result = TrainResult(at.best, at.best_step, at.step, at.samples, seconds, count, stopped)
        if self.ranks.is_first:
            result.space = self.task.save_last(self.out_dir, self.best_state)
            write_result(self.out_dir, asdict(result))
            (self.out_dir / CHECKPOINT).unlink(missing_ok=True)
        return result

    def _set_learning_rate(self) -> None:
        warmup = round(self.config.warmup_ratio * self.total_steps)
        if self.at.step < warmup:
            factor = (self.at.step + 1) / warmup
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (self.at.step - warmup) / max(1, self.total_steps - warmup)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
