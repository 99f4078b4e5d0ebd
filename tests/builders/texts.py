"""Texts of items, as a lake exports them."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.builders.tensors import write_snapshot

COLOURS, THINGS = ("red", "blue", "green", "white"), ("lamp", "mug", "holder", "heart", "lantern")


def text_of(item: int) -> str:
    """Two words that the tiny checkpoints' tokenizers know, different for 20 items; after that a number is added."""
    number, place = divmod(item - 1, len(COLOURS) * len(THINGS))
    words = f"{COLOURS[place % len(COLOURS)]} {THINGS[place // len(COLOURS)]}"
    return words + "".join(f" {digit}" for digit in str(number)) if number else words


def write_texts(folder: Path, num_items: int) -> Path:
    """Writes a snapshot of the texts of items 1 .. num_items, in random order."""
    items = np.random.default_rng(0).permutation(num_items) + 1
    table = pa.table({"item_idx": pa.array(items, pa.int32()), "text": [text_of(item) for item in items.tolist()]})
    return write_snapshot(folder, table)
