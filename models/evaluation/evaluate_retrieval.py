"""Retrieval of the next window's purchases, beside popularity, the history itself and the mean of its content.

Shapes: B users, I candidate items, K embedding width, H history length, P (user, target) pairs,
Q (user, item) pairs bought before.
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.baselines.history import last_item_bias, last_item_shares
from models.baselines.mean_content import item_vectors, user_means
from models.baselines.popularity import log_popularity
from models.contract.evaluation_specs import RetrievalSpec
from models.contract.failures import BadInput
from models.contract.result import write_result
from models.contract.snapshot import open_snapshot
from models.contract.whole_files import require_folder
from models.data.content import ContentMatrix
from models.data.stream import read_column
from models.metrics.ranks import recall_ndcg, target_ranks
from models.saved import load_towers
from models.towers.repeats import held_pairs

POPULARITIES = ("popularity_recent", "popularity_all")


class RetrievalTask:
    """Users, candidates and targets as arrays, and the figures of any scorer over them."""

    def __init__(self, spec: RetrievalSpec) -> None:
        users, items, pairs = (open_snapshot(path) for path in (spec.users, spec.items, spec.pairs))
        self.content = ContentMatrix(spec.content_matrix)
        self.ks = spec.ks
        self.user_BK = torch.from_numpy(read_column(users, "user_emb"))
        self.hist_BH = torch.from_numpy(read_column(users, "hist_items")).long()
        self.item_IK = torch.from_numpy(read_column(items, "item_emb"))
        self.item_idx_I = torch.from_numpy(read_column(items, "item_idx")).long()
        self.popularity = {name: log_popularity(read_column(items, name)) for name in POPULARITIES}
        pair_2 = self._pair_rows(read_column(users, "user_id"), pairs)
        is_target, is_seen = (read_column(pairs, name) > 0 for name in ("is_target", "is_seen"))
        self.target_P2, self.is_new_P = _sorted(pair_2[is_target], ~is_seen[is_target])
        seen_Q2 = pair_2[is_seen & (pair_2[:, 1] >= 0)]
        self.seen_Q2, _ = _sorted(seen_Q2, np.ones(len(seen_Q2), bool))

    @cached_property
    def held(self) -> tuple[np.ndarray, np.ndarray]:
        """(user row, item row) of what the histories hold, and its last place in them."""
        pair_Q2, place_Q = held_pairs(self.hist_BH.numpy())
        item_row_Q = self._row_of(pair_Q2[:, 1])
        is_candidate_Q = item_row_Q >= 0
        return np.stack([pair_Q2[:, 0], item_row_Q], axis=1)[is_candidate_Q], place_Q[is_candidate_Q]

    def _pair_rows(self, user_id_B: np.ndarray, pairs: object) -> np.ndarray:
        """(user row, item row) of every pair; item row -1 where the item is no candidate."""
        order_B = np.argsort(user_id_B)
        user_id = read_column(pairs, "user_id")
        place = np.searchsorted(user_id_B, user_id, sorter=order_B).clip(max=len(order_B) - 1)
        user_row = order_B[place]
        if (user_id_B[user_row] != user_id).any():
            raise BadInput(f"snapshot {pairs.path} holds users that the users' snapshot lacks")
        return np.stack([user_row, self._row_of(read_column(pairs, "item_idx"))], axis=1)

    def _row_of(self, item_idx_N: np.ndarray) -> np.ndarray:
        """Item rows; -1 of what is no candidate."""
        row_of = np.full(max(int(self.item_idx_I.max()), int(item_idx_N.max(initial=0))) + 1, -1, np.int64)
        row_of[self.item_idx_I.numpy()] = np.arange(len(self.item_idx_I))
        return row_of[item_idx_N]

    def figures(
        self,
        user_BK: Tensor,
        item_IK: Tensor,
        bias_I: np.ndarray | None = None,
        held_bias: float | np.ndarray | None = None,
    ) -> dict[str, float]:
        """recall_at_k and ndcg_at_k over all purchases and (`new_…`) over those that are new to the user.

        Where only new items count, items bought before are no candidates; else those that the history holds (`held`)
        get `held_bias`.
        """
        bias_I = torch.zeros(len(item_IK)) if bias_I is None else torch.from_numpy(bias_I)
        found = {}
        for prefix, is_task_P, held in (
            ("", np.ones(len(self.target_P2), bool), () if held_bias is None else (self.held[0], held_bias)),
            ("new_", self.is_new_P, (self.seen_Q2, -np.inf)),
        ):
            task_P2 = self.target_P2[is_task_P]
            if not len(task_P2):
                continue
            users_B, row_P = np.unique(task_P2[:, 0], return_inverse=True)
            num_targets_B = np.bincount(row_P)
            is_candidate_P = task_P2[:, 1] >= 0
            ranked_P2, row_P = task_P2[is_candidate_P], row_P[is_candidate_P]
            rank_P = target_ranks(user_BK, item_IK, bias_I, ranked_P2, *held)
            for k in self.ks:
                recall, ndcg = recall_ndcg(rank_P, row_P, num_targets_B, k)
                found |= {f"{prefix}recall_at_{k}": recall, f"{prefix}ndcg_at_{k}": ndcg}
        return found


def run(spec: RetrievalSpec) -> dict[str, float]:
    """Figures of the towers and the baselines; written to result.json.

    Returns:
        users, items, targets, of them targets_not_known and targets_new; `recall_at_50`, … of the towers,
        `without_prior_…`, `popularity_…` (the better of two windows), `last_item_…` (the history from its end, then
        the recently popular), `mean_content_…`, `mean_content_with_prior_…` (what the untrained content does with the
        towers' prior); each also `new_…`.

    Raises:
        BadInput: snapshots or matrix do not fit together.
    """
    torch.set_num_threads(spec.threads)
    task = RetrievalTask(spec)
    prior_I = spec.popularity_weight * task.popularity["popularity_recent"]
    learned = load_towers(require_folder(spec.towers, "towers")).repeat_bias
    repeat_bias = None if learned is None else learned.item()
    result: dict[str, float] = {
        "users": len(task.user_BK),
        "items": len(task.item_IK),
        "targets": len(task.target_P2),
        "targets_not_known": int((task.target_P2[:, 1] < 0).sum()),
        "targets_new": int(task.is_new_P.sum()),
    }
    result |= task.figures(task.user_BK, task.item_IK, prior_I, repeat_bias)
    result |= _named("without_prior", task.figures(task.user_BK, task.item_IK, None, repeat_bias))
    result |= _named("popularity", _best_popularity(task))
    share_I = last_item_shares(task.popularity["popularity_recent"])
    result |= _named("last_item", task.figures(*_no_vectors(task), share_I, last_item_bias(task.held[1])))
    means_BC, content_IC = user_means(task.hist_BH, task.content), item_vectors(task.item_idx_I, task.content)
    result |= _named("mean_content", task.figures(means_BC, content_IC))
    scale = task.item_IK.square().sum(-1).mean()  # the towers' own: their vectors are unit ones times its root
    result |= _named("mean_content_with_prior", task.figures(scale * means_BC, content_IC, prior_I))
    write_result(spec.out_dir, result)
    return result


def _best_popularity(task: RetrievalTask) -> dict[str, float]:
    """Of the two windows the better one, figure by figure: the baseline gets the benefit of the doubt."""
    both = [task.figures(*_no_vectors(task), count_I) for count_I in task.popularity.values()]
    return {name: max(figures[name] for figures in both) for name in both[0]}


def _no_vectors(task: RetrievalTask) -> tuple[Tensor, Tensor]:
    """For scorers that have none: users and items whose inner products are 0."""
    return torch.zeros(len(task.user_BK), 1), torch.zeros(len(task.item_IK), 1)


def _named(scorer: str, figures: dict[str, float]) -> dict[str, float]:
    """`recall_at_50` -> `popularity_recall_at_50`, `new_recall_at_50` -> `popularity_new_recall_at_50`."""
    return {f"{scorer}_{name}": value for name, value in figures.items()}


def _sorted(pair_2: np.ndarray, flag: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((pair_2[:, 1], pair_2[:, 0]))
    return pair_2[order], flag[order]
