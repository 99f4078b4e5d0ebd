"""Item codes ("semantic ids"): the codebook that turns an item's vector into a few small numbers, coarse to fine.

Residual quantisation: the nearest centroid of the first level, then of the second level the one nearest to the
remainder, and so on. Shapes: N vectors, K width, L levels, S centroids per level.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.failures import BadInput
from models.contract.verified import read_sealed, sealed
from models.contract.whole_files import write_whole

CODEBOOK = "codebook.json"
_CHUNK = 4096  # vectors whose distances are held at once


@dataclass(frozen=True)
class Codebook:
    """The centroids that item codes refer to.

    Attributes:
        levels: the centroids of each level, [S, K]; a code is a centroid's index in its level.
        spread: the mean squared distance of the fitted vectors from their mean. Reconstruction errors are given
            relative to it, whichever items they are measured on.
    """

    levels: tuple[np.ndarray, ...]
    spread: float = 1.0

    @property
    def sizes(self) -> list[int]:
        """Number of centroids per level; the codes of a level are below it."""
        return [len(level_SK) for level_SK in self.levels]

    def encode(self, vector_NK: np.ndarray) -> np.ndarray:
        """Codes, int32 [N, L]. Equal vectors have equal codes; of several nearest centroids the first is taken."""
        codes_NL = np.empty((len(vector_NK), len(self.levels)), np.int32)
        for start in range(0, len(vector_NK), _CHUNK):
            left_nK = vector_NK[start : start + _CHUNK].astype(np.float64)
            for level, centroid_SK in enumerate(self.levels):
                half_S = np.square(centroid_SK).sum(1) / 2
                code_n = np.argmin(half_S - left_nK @ centroid_SK.T, axis=1)
                codes_NL[start : start + _CHUNK, level] = code_n
                left_nK = left_nK - centroid_SK[code_n]
        return codes_NL

    def decode(self, codes_NL: np.ndarray) -> np.ndarray:
        """The vectors that codes stand for: sums of their centroids, float64 [N, K]."""
        said_NK = np.zeros((len(codes_NL), self.levels[0].shape[1]))
        for level, centroid_SK in enumerate(self.levels):
            said_NK += centroid_SK[codes_NL[:, level]]
        return said_NK


def write_codebook(file: Path, codebook: Codebook) -> None:
    """Writes the file atomically, with a digest."""
    values = {"levels": [level_SK.tolist() for level_SK in codebook.levels], "spread": codebook.spread}
    write_whole(file, json.dumps(sealed(values)) + "\n")


def read_codebook(file: Path) -> Codebook:
    """Reads the file that `write_codebook` wrote.

    Raises:
        BadInput: it cannot be read, has changed, or holds no codebook.
    """
    values = read_sealed(file, "codebook")
    try:
        levels = tuple(np.array(level, np.float32).astype(np.float64) for level in values["levels"])
        spread = float(values["spread"])
    except (KeyError, TypeError, ValueError):
        levels, spread = (), 0.0
    if not levels or any(level.ndim != 2 or level.shape[1] != levels[0].shape[1] for level in levels):
        raise BadInput(f"codebook: {file} holds no levels of centroids of one width")
    return Codebook(levels, spread)
