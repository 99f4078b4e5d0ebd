"""Maps a retrained model's vectors into the space of the earlier model, so that models that read them stay valid.

A training that starts anew ends up with other axes: its inner products mean the same, its single numbers do not. Towers
are rotated by one orthogonal matrix for users and items (orthogonal Procrustes: Schönemann 1966), which keeps every
inner product and norm; it is multiplied into the weights of their last layers. The middle layer of the conversion model
has no inner products to keep, so a ridge regression maps it.

Shapes: N vectors, K width of an embedding, I items, B users, H history length, L length of its part that is read,
P pairs, D width of a middle layer, E width of the earlier middle layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.contract.event_types import codes_for
from models.contract.failures import BadInput
from models.data.content import ContentMatrix
from models.layers.packing import last_places
from models.towers.cvr import CVRModel
from models.towers.towers import Towers
from models.towers.typed_events import model_types

MOST_ITEMS, MOST_USERS = 100_000, 20_000  # the most items and users that the rotation is fitted on
LEAST_SHARED = 10  # the fewest items, users and held-out pairs; fewer do not determine the axes
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # ridge per row, for standardised columns
HELD_OUT = 5  # every 5th pair is held out to choose the ridge


@dataclass(frozen=True)
class ScoringTowers:
    """Trained towers and the content matrix that they read."""

    towers: Towers
    content: ContentMatrix

    def items(self, item_I: np.ndarray) -> np.ndarray:
        """The items' unit vectors, [I, K]; zeros for items without content."""
        item_I = self.content.known(item_I)
        has_content_I = (self.content.gather(torch.from_numpy(item_I)).abs().amax(1) > 0).numpy()
        return _unit(self._vectors(self.towers.embed_items(item_I, self.content))) * has_content_I[:, None]

    def users(self, hist_BH: np.ndarray, length_B: np.ndarray, types_BH: np.ndarray | None = None) -> np.ndarray:
        """The users' unit vectors, [B, K], from the last `max_len` items of their histories; zeros for empty ones.

        `types_BH` are the codes of the event types that the towers use.
        """
        kept_B, place_BL = last_places(length_B, self.towers.config.max_len)
        hist_BL = self.content.known(np.take_along_axis(hist_BH, place_BL, axis=1))
        hist_BL = np.where(np.arange(hist_BL.shape[1]) < kept_B[:, None], hist_BL, 0)
        types_BL = None if types_BH is None else np.take_along_axis(types_BH, place_BL, axis=1)
        return _unit(self._vectors(self.towers.embed_users(hist_BL, kept_B, self.content, hist_types_BH=types_BL)))

    def _vectors(self, published_NK: np.ndarray) -> np.ndarray:
        return published_NK[:, : published_NK.shape[1] - self.towers.config.item_bias]


def turn_into(
    new: ScoringTowers,
    earlier: ScoringTowers,
    item_I: np.ndarray,
    hist_BH: np.ndarray,
    length_B: np.ndarray,
    types_BH: np.ndarray | None = None,
    types: Sequence[str] = (),
) -> dict[str, object]:
    """Rotates the new towers, in place, into the space of the earlier ones.

    Args:
        new, earlier: the towers to rotate, and the towers whose space is the target.
        item_I: item_idx of items that both may know.
        hist_BH, length_B: histories, item_idx oldest first, padded on the right.
        types_BH, types: codes of the histories' event types, and the names that the codes stand for.

    Returns:
        items, users: how many the rotation was fitted on; item_cosine, user_cosine: [before, after] the rotation, the
        mean cosine between the two models' vectors.

    Raises:
        BadInput: the widths differ, the earlier towers know other event types, or the two share too little.
    """
    require_same_width(new.towers, earlier.towers)
    item_I = np.random.default_rng(0).permutation(item_I)[:MOST_ITEMS]
    new_IK, old_IK = _both(new.items(item_I), earlier.items(item_I))
    hist_BH, length_B = hist_BH[:MOST_USERS], length_B[:MOST_USERS].astype(np.int64)
    types_BH = None if types_BH is None else types_BH[:MOST_USERS]
    of_new, of_earlier = (
        model_types(one.towers, types, types_BH, what)
        for one, what in ((new, "a model"), (earlier, "the earlier release's model"))
    )
    new_BK, old_BK = _both(new.users(hist_BH, length_B, of_new), earlier.users(hist_BH, length_B, of_earlier))
    if min(len(new_IK), len(new_BK)) < LEAST_SHARED:
        raise BadInput(
            f"the earlier towers know {len(new_IK)} of these items and {len(new_BK)} of these users; a common space"
            f" needs {LEAST_SHARED} of each: towers.compatible_with: none begins a space of its own"
        )
    moment_KK = new_IK.T @ old_IK / len(new_IK) + new_BK.T @ old_BK / len(new_BK)  # users weigh as much as items
    left_KK, _, right_KK = np.linalg.svd(moment_KK.astype(np.float64))
    rotation_KK = left_KK @ right_KK
    rotate(new.towers, torch.from_numpy(rotation_KK))
    return {
        "items": len(new_IK),
        "users": len(new_BK),
        "item_cosine": [_cosine(new_IK, old_IK), _cosine(new_IK @ rotation_KK, old_IK)],
        "user_cosine": [_cosine(new_BK, old_BK), _cosine(new_BK @ rotation_KK, old_BK)],
    }


def require_known_types(earlier: Towers, types: Sequence[str]) -> None:
    """Raises BadInput if the earlier towers read event types, but histories have none or unknown ones."""
    if earlier.event_types:
        try:
            codes_for(earlier.event_types, types, "the towers of the earlier release")
        except BadInput as error:
            raise BadInput(f"{error}; towers.compatible_with: none begins a space of its own") from None


def require_same_width(new: Towers, earlier: Towers) -> None:
    """Raises BadInput if the towers' embeddings differ in width or only one of them has an item_bias column."""
    columns, wanted = (
        f"{one.config.embedding_dim} columns{' with' if one.config.item_bias else ' without'} item_bias"
        for one in (new, earlier)
    )
    if columns != wanted:
        raise BadInput(
            f"these towers make {columns}, those of the earlier release {wanted}: towers.compatible_with: none begins a"
            " space of its own"
        )


@torch.no_grad()
def rotate(towers: Towers, rotation_KK: Tensor) -> None:
    """Changes the towers' weights so that every output vector v becomes v @ rotation."""
    for layer in towers.output_layers:
        turned_KK = rotation_KK.T.to(layer.weight)
        layer.weight.copy_(turned_KK @ layer.weight)
        if layer.bias is not None:
            layer.bias.copy_(turned_KK @ layer.bias)


def mapped_into(model: CVRModel, mid_PD: np.ndarray, earlier_PE: np.ndarray) -> tuple[CVRModel, dict[str, object]]:
    """The model with a linear map of its middle layer into the earlier model's space.

    Args:
        model: a model without such a map.
        mid_PD: its middle layer for some pairs.
        earlier_PE: the earlier model's `mid_emb` for the same pairs.

    Returns:
        The mapped model; and pairs, their number, and mid_explained, the share of the variance of `earlier_PE` that the
        map explains on the pairs that were held out to choose the ridge.

    Raises:
        BadInput: there are too few pairs.
    """
    if len(mid_PD) < LEAST_SHARED * HELD_OUT:
        raise BadInput(
            f"{len(mid_PD)} pairs are too few to map mid_emb into the space of the earlier release (at least"
            f" {LEAST_SHARED * HELD_OUT}): towers.compatible_with: none begins a space of its own"
        )
    held_out_P = np.arange(len(mid_PD)) % HELD_OUT == 0
    fitted = {ridge: _ridge(mid_PD[~held_out_P], earlier_PE[~held_out_P], ridge) for ridge in RIDGES}
    explained = {ridge: _explained(fitted[ridge], mid_PD[held_out_P], earlier_PE[held_out_P]) for ridge in RIDGES}
    best = max(explained, key=explained.__getitem__)
    weight_DE, bias_E = _ridge(mid_PD, earlier_PE, best)
    mapped = CVRModel(model.config, model.user_dim, model.item_dim, earlier_PE.shape[1], model.other_labels)
    own = {"mid_map.weight": torch.from_numpy(weight_DE.T).float(), "mid_map.bias": torch.from_numpy(bias_E).float()}
    mapped.load_state_dict({**model.state_dict(), **own})
    return mapped.eval(), {"pairs": len(mid_PD), "mid_explained": explained[best]}


Map = tuple[np.ndarray, np.ndarray]  # weights [D, E] and bias [E]


def _ridge(mid_PD: np.ndarray, earlier_PE: np.ndarray, ridge: float) -> Map:
    """Least squares on standardised columns, with `ridge` x number of rows added to the diagonal."""
    mean_D, scale_D = mid_PD.mean(0, dtype=np.float64), mid_PD.std(0, dtype=np.float64)
    scale_D = np.where(scale_D > 1e-6, scale_D, 1.0)  # a constant column explains nothing
    mean_E = earlier_PE.mean(0, dtype=np.float64)
    X_PD, Y_PE = (mid_PD - mean_D) / scale_D, earlier_PE - mean_E
    moment_DD = X_PD.T @ X_PD + ridge * len(X_PD) * np.eye(X_PD.shape[1])
    weight_DE = np.linalg.solve(moment_DD, X_PD.T @ Y_PE) / scale_D[:, None]
    return weight_DE, mean_E - mean_D @ weight_DE


def _explained(fitted: Map, mid_PD: np.ndarray, earlier_PE: np.ndarray) -> float:
    weight_DE, bias_E = fitted
    left = float(np.square(earlier_PE - mid_PD @ weight_DE - bias_E).sum())
    return 1 - left / max(float(np.square(earlier_PE - earlier_PE.mean(0)).sum()), 1e-12)


def _both(new_NK: np.ndarray, old_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows for which both models have a nonzero vector."""
    is_known_N = (np.abs(new_NK).max(1, initial=0) > 0) & (np.abs(old_NK).max(1, initial=0) > 0)
    return new_NK[is_known_N], old_NK[is_known_N]


def _unit(vector_NK: np.ndarray) -> np.ndarray:
    return vector_NK / np.maximum(np.linalg.norm(vector_NK, axis=1, keepdims=True), 1e-12)


def _cosine(one_NK: np.ndarray, other_NK: np.ndarray) -> float:
    return float(np.einsum("nk,nk->n", one_NK, other_NK).mean())
