"""What item codes are worth: figures of numpy arrays. Shapes: N items, K width of a vector, S codes of a level."""

import numpy as np


def even_use(count_U: np.ndarray, size: int) -> float:
    """Perplexity of a level's codes by its size: 1 if all `size` codes are used evenly, 1 / size if a single one is.

    Args:
        count_U: how many items have each of the codes that are used.
        size: codes that there are.
    """
    share_U = count_U / count_U.sum()
    return float(np.exp(-(share_U * np.log(share_U)).sum()) / size)


def relative_error(vector_NK: np.ndarray, decoded_NK: np.ndarray, spread: float) -> float:
    """Mean squared distance of vectors from what their codes say of them; `spread` is that of items from their mean."""
    return float(np.square(vector_NK - decoded_NK).sum(1).mean() / max(spread, 1e-12))
