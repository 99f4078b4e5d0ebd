"""Quality figures of item codes, over numpy arrays. Shapes: N items, K width of a vector, U codes that are used."""

import numpy as np


def even_use(count_U: np.ndarray, size: int) -> float:
    """Perplexity of a level's codes divided by its size: 1 if all codes are used evenly, 1 / size if only one is used.

    Args:
        count_U: how many items have each of the codes that are used.
        size: how many codes the level has.
    """
    share_U = count_U / count_U.sum()
    return float(np.exp(-(share_U * np.log(share_U)).sum()) / size)


def relative_error(vector_NK: np.ndarray, decoded_NK: np.ndarray, spread: float) -> float:
    """Mean squared distance of vectors from their decoded codes, relative to `spread`, that from the items' mean."""
    return float(np.square(vector_NK - decoded_NK).sum(1).mean() / max(spread, 1e-12))
