"""One training loop for all models of the torch side."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from models.progress import Progress
from models.settings import TrainConfig

Batch = dict[str, Tensor]
RESULT = "result.json"


class LossNotFiniteError(ArithmeticError):
    """The loss became NaN or infinite; the last good checkpoint has been saved."""


class Task(Protocol):
    """What the trainer trains.

    Attributes:
        model: the module.
        metric: name of the evaluation metric that chooses the best state; higher is better.
    """

    model: nn.Module
    metric: str

    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        ...

    def batches(self, epoch: int) -> Iterator[tuple[Batch, int]]:
        """Prepared batches of an epoch, in that epoch's order, each with its number of rows."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Scalar loss of a prepared batch, the model in training mode."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Validation metrics."""
        ...

    def save(self, path: Path, state: dict[str, Tensor]) -> None:
        """Write the model with these weights into folder `path`."""
        ...


@dataclass
class TrainResult:
    """What result.json holds: the best evaluation, and what it took."""

    best: dict[str, float]
    best_step: int
    steps: int
    samples: int
    seconds: float
    parameters: int
    stopped: str


class Trainer:
    """AdamW, warm-up and cosine, clipping, early stopping; the best state is what stays.

    Writes into `out_dir`: the model (whenever a better state is found), metrics.jsonl (a line with `loss`,
    `lr`, `samples_per_s`, `data_wait` every `log_every` steps, one with the metrics every evaluation),
    and at the end result.json.

    Args:
        task: what to train.
        config: the loop's settings.
        out_dir: a folder, made if missing.
    """

    def __init__(self, task: Task, config: TrainConfig, out_dir: Path) -> None:
        self.task, self.config, self.out_dir = task, config, out_dir
        self.parameters = [p for p in task.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.steps_per_epoch = task.steps_per_epoch()
        self.total_steps = config.epochs * self.steps_per_epoch
        if not self.total_steps:
            raise ValueError("the training snapshot is smaller than one batch")
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._lr_factor)
        self.best: dict[str, float] = {}
        self.last_evaluated = -1
        self.best_step = self.step = self.samples = self.misses = 0
        self.window = [0.0, 0.0, 0]  # seconds, of them waiting for data, samples since the last line

    def run(self) -> TrainResult:
        """Train.

        Raises:
            LossNotFiniteError: the model folder then holds the best state so far.
        """
        self.out_dir.mkdir(parents=True, exist_ok=True)
        (self.out_dir / RESULT).unlink(missing_ok=True)
        self.started = time.monotonic()
        with (
            (self.out_dir / "metrics.jsonl").open("w", encoding="utf-8") as log,
            Progress(self.total_steps, self.config.max_seconds) as progress,
        ):
            self.log = log
            self._evaluate()
            stopped = self._loop(progress)
            if stopped != "patience" and self.step != self.last_evaluated:
                self._evaluate()
        count = sum(p.numel() for p in self.parameters)
        seconds = time.monotonic() - self.started
        result = TrainResult(self.best, self.best_step, self.step, self.samples, seconds, count, stopped)
        text = json.dumps(asdict(result), indent=2) + "\n"
        partial = self.out_dir / f".{RESULT}"
        partial.write_text(text, encoding="utf-8")
        partial.rename(self.out_dir / RESULT)  # its existence says that the training is finished
        return result

    def _loop(self, progress: Callable[[str], None]) -> str:
        eval_every = self.config.evaluate_every or self.steps_per_epoch
        for epoch in range(self.config.epochs):
            waited_from = time.monotonic()
            for batch, num_rows in self.task.batches(epoch):
                ready = time.monotonic()
                loss = self._train_step(batch)
                self.samples += num_rows
                now = time.monotonic()
                self.window[0] += now - waited_from
                self.window[1] += ready - waited_from
                self.window[2] += num_rows
                progress(self._report(loss))
                if self.step % eval_every == 0 and self._evaluate():
                    return "patience"
                if self.config.max_seconds and time.monotonic() - self.started > self.config.max_seconds:
                    return "max_seconds"
                waited_from = time.monotonic()
        return "epochs"

    def _train_step(self, batch: Batch) -> float:
        self.task.model.train()
        loss = self.task.loss(batch)
        value = loss.item()
        if not math.isfinite(value):
            self._write({"step": self.step + 1, "loss": str(value)})
            raise LossNotFiniteError(
                f"loss is {value} at step {self.step + 1}; {self.out_dir} keeps that of step {self.best_step}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        return value

    def _evaluate(self) -> bool:
        """Evaluate, keep the state if it is the best; whether patience has run out."""
        self.task.model.eval()
        with torch.inference_mode():
            metrics = self.task.evaluate()
        self.last_evaluated = self.step
        self._write({"step": self.step, **metrics})
        metric = self.task.metric
        if not self.best or metrics[metric] > self.best[metric]:
            self.best, self.best_step, self.misses = metrics, self.step, 0
            self.task.save(self.out_dir, self.task.model.state_dict())
        else:
            self.misses += 1
        return self.misses >= self.config.patience

    def _report(self, loss: float) -> str:
        seconds, waited, rows = self.window
        if self.step % self.config.log_every == 0 or self.step == 1:
            line = {"step": self.step, "loss": loss, "lr": self.scheduler.get_last_lr()[0]}
            speed = {"samples_per_s": round(rows / seconds, 1), "data_wait": round(waited / seconds, 4)}
            self._write(line | speed)
            self.window = [0.0, 0.0, 0]
        best = f"{self.task.metric} {self.best[self.task.metric]:.4f}"
        return f"loss {loss:.4f}, best {best} at {self.best_step}, {rows / max(seconds, 1e-9):.0f} samples/s"

    def _write(self, line: dict[str, float | str]) -> None:
        self.log.write(json.dumps(line | {"seconds": round(time.monotonic() - self.started, 3)}) + "\n")
        self.log.flush()

    def _lr_factor(self, step: int) -> float:
        warmup = round(self.config.warmup_share * self.total_steps)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.total_steps - warmup)))
