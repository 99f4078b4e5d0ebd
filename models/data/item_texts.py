"""The items' texts by item_idx, for language models."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.contract.snapshot import open_snapshot

COLUMNS = ["item_idx", "text"]


class ItemTexts:
    """Texts of a snapshot with the columns item_idx and text, held in memory: some 100 bytes per item.

    Args:
        folder: the snapshot's folder.

    Raises:
        BadInput: the snapshot cannot be read; one line.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        snapshot = open_snapshot(self.folder)
        table = pa.concat_tables(pq.read_table(file, columns=COLUMNS) for file in snapshot.files)
        item_N = table["item_idx"].to_numpy()
        self._texts = table["text"].combine_chunks()
        self._place_I = np.full(int(item_N.max(initial=0)) + 1, -1)
        self._place_I[item_N] = np.arange(len(item_N))

    def of(self, item_N: np.ndarray) -> list[str]:
        """Texts of items; "" for padding (0) and for items without a text."""
        item_N = np.asarray(item_N)
        is_known_N = (item_N > 0) & (item_N < len(self._place_I))
        place_N = np.where(is_known_N, self._place_I[np.where(is_known_N, item_N, 0)], -1)
        return [self._texts[place].as_py() if place >= 0 else "" for place in place_N.tolist()]
