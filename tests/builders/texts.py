"""Texts of items, as a lake's export leaves them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COLOURS, THINGS = ("red", "blue", "green", "white"), ("lamp", "mug", "holder", "heart", "lantern")


def text_of(item: int) -> str:
    """Two words that the tiny checkpoints' tokenizers know, other ones for each of 20 items, and a number behind."""
    number, place = divmod(item - 1, len(COLOURS) * len(THINGS))
    words = f"{COLOURS[place % len(COLOURS)]} {THINGS[place // len(COLOURS)]}"
    return words + "".join(f" {digit}" for digit in str(number)) if number else words


def write_texts(folder: Path, num_items: int) -> Path:
    """Item texts of items 1 .. num_items, in two files."""
    folder.mkdir(parents=True)
    for part, items in enumerate((range(1, num_items // 2), range(num_items // 2, num_items + 1))):
        table = pa.table({"item_idx": pa.array(items, pa.int32()), "text": [text_of(item) for item in items]})
        pq.write_table(table, folder / f"part-{part}.parquet")
    return folder
