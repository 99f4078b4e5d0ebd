"""Vectors of several layers and poolings from one pass of the whole model, and the seconds up to each layer.

Shapes: N texts, B texts of a batch, L padded tokens, D hidden width.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.encoder.batching import run_batches
from models.encoder.depth import layers_of
from models.encoder.encoder import Encoder, pooled

Kept = Callable[[int, str, np.ndarray, np.ndarray], None]


@dataclass
class Clock:
    """Seconds of the model up to each layer, without the time spent on the layers' states in between.

    On a GPU this is wall time after a synchronisation. On CPUs it is the process's CPU time, all cores together, so
    that other load on the machine does not distort the comparison of layers.
    """

    device: torch.device
    seconds: dict[int, float] = field(default_factory=dict)
    _spent: float = 0.0
    _since: float = 0.0

    def begin(self) -> None:
        """Starts the clock for a batch."""
        self._spent, self._since = 0.0, self._now()

    @contextmanager
    def stopped_at(self, layer: int) -> Iterator[None]:
        """Records the time up to a layer, and stops the clock while the block works on the layer's states."""
        self._spent += self._now() - self._since
        self.seconds[layer] = self.seconds.get(layer, 0.0) + self._spent
        yield
        self._since = self._now()

    def _now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


class LayersEncoder(Encoder):
    """An `Encoder` that returns several layers and poolings; its own pooling is not used.

    Attributes:
        num_layers: the number of the model's layers.
    """

    @property
    def num_layers(self) -> int:
        return len(layers_of(self._model))

    def read(
        self, tokens: Sequence[Sequence[int]], batch_tokens: int, wanted: Mapping[int, Sequence[str]], keep: Kept
    ) -> dict[int, float]:
        """Reads each text once and passes the vectors of every wanted layer and pooling to `keep`.

        Args:
            tokens: N lists of token ids, none of them empty.
            batch_tokens: as in `encode_tokens`.
            wanted: poolings by layer, counted from 1. The model's last layer is what `Encoder` uses by default.
            keep: called with layer, pooling, row numbers [B] and their vectors, float32 [B, D]. If memory runs out, it
                may be called again for the same rows. It is never called for rows that do not even fit alone.

        Returns:
            By wanted layer, the model's seconds up to it, summed over all texts.

        Raises:
            BadInput: the layers are not where the known families have them.
        """
        clock = Clock(self._model.device)
        layers = layers_of(self._model)

        @torch.inference_mode()
        def work(rows: np.ndarray) -> None:
            ids_BL, mask_BL, lengths_B = self._on_device([tokens[row] for row in rows])

            def give(layer: int, hidden_BLD: Tensor) -> None:
                with clock.stopped_at(layer):
                    for pooling in wanted[layer]:
                        keep(layer, pooling, rows, pooled(pooling, hidden_BLD, mask_BL, lengths_B).cpu().numpy())

            hooks = [
                layers[layer - 1].register_forward_hook(_handing(give, layer))
                for layer in wanted
                if layer < len(layers)
            ]
            try:
                clock.begin()
                read = self._model(input_ids=ids_BL, attention_mask=mask_BL.long())
                if len(layers) in wanted:
                    give(len(layers), read.last_hidden_state)
            finally:
                for hook in hooks:
                    hook.remove()

        run_batches(work, [len(ids) for ids in tokens], batch_tokens)
        return clock.seconds


def _handing(give: Callable[[int, Tensor], None], layer: int) -> Callable[[object, object, Any], None]:
    """A forward hook that passes a layer's states to `give`. In some families they are the first element of a tuple."""

    def hook(module: object, inputs: object, output: Any) -> None:  # noqa: ANN401 - as the family has it
        give(layer, output if isinstance(output, Tensor) else output[0])

    return hook
