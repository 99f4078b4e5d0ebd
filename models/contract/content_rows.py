"""Vectors of items out of a content matrix, as numpy arrays; needs no torch.

Shapes: C content width, U unique items asked for.
"""

from pathlib import Path

import numpy as np

from models.contract.content_matrix import open_matrix
from models.contract.failures import BadInput

# Pages that were read count as this process's memory until they are released (the system's page cache keeps them).
MAX_MAPPED_BYTES = 128 << 20
_READ_AROUND = 64 << 10  # the most that the kernel maps around a page that is read


class ContentRows:
    """Reader of a matrix folder: `meta.json` and the file of vectors that it names, by default `vectors.f16`.

    Resident memory does not grow with the number of items.

    Args:
        path: the folder.

    Attributes:
        rows: number of rows, the padding row included; valid item_idx are 0 .. rows - 1.
        dim: content width C.
        encoder_id: name of the encoder that made the vectors.

    Raises:
        BadInput: meta.json is missing or wrong, or the file of vectors is missing or too short. Reading rows later
            raises it if their bytes have changed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._matrix, meta = open_matrix(self.path)
        (self.rows, self.dim), self.encoder_id = self._matrix.shape, meta.encoder_id
        self._mapped_bytes = 0

    def known(self, idx: np.ndarray) -> np.ndarray:
        """The item_idx, with padding (0) in place of items that have no row here because they are newer."""
        return np.where((idx > 0) & (idx < self.rows), idx, 0)

    def vectors(self, idx: np.ndarray) -> np.ndarray:
        """Vectors of items. Every distinct row is read once, in file order.

        Args:
            idx: item_idx, integers of any shape S.

        Returns:
            float32 [*S, C].

        Raises:
            BadInput: an index is outside the matrix.
        """
        rows_UC, inverse = self.unique_vectors(idx)
        return rows_UC[inverse]

    def unique_vectors(self, *idx: np.ndarray) -> tuple[np.ndarray, ...]:
        """Vectors of the distinct items of several arrays of item_idx, and the arrays as row numbers of these vectors.

        Args:
            idx: item_idx arrays, each of any shape.

        Returns:
            float32 [U, C], sorted by item_idx, then for each argument an int64 array of its shape.

        Raises:
            BadInput: an index is outside the matrix.
        """
        unique_U, inverse = np.unique(np.concatenate([a.ravel() for a in idx]), return_inverse=True)
        if unique_U.size and not 0 <= unique_U[0] <= unique_U[-1] < self.rows:
            bad = unique_U[0] if unique_U[0] < 0 else unique_U[-1]
            raise BadInput(f"item_idx {bad} is outside the content matrix {self.path} of {self.rows} rows")
        rows_UC = self._matrix[unique_U].astype(np.float32)
        self._give_pages_back(unique_U.size)
        parts = np.split(inverse.ravel(), np.cumsum([a.size for a in idx])[:-1])
        return rows_UC, *(part.reshape(a.shape) for part, a in zip(parts, idx, strict=True))

    def _give_pages_back(self, num_rows: int) -> None:
        self._mapped_bytes += num_rows * (self.dim * 2 + _READ_AROUND)
        if self._mapped_bytes > MAX_MAPPED_BYTES and self._matrix.nbytes > MAX_MAPPED_BYTES:
            self._matrix.give_pages_back()
            self._mapped_bytes = 0
