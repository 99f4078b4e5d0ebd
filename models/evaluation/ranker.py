"""A plain production-like ranker: gradient-boosted trees. Shapes: N rows, F features, S seeds."""

import os
from collections.abc import Sequence

import numpy as np

from models.contract.failures import BadInput
from models.contract.settings import RankerConfig

# Trees are thousands of short parallel loops; threads that spin while they wait starve each other as soon as
# the cores are shared. OpenMP reads this once, when scikit-learn is imported, and only if torch was not first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: E402


class Ranker:
    """Trees over one feature matrix, one ensemble a seed.

    Args:
        config: the trees' settings.
        seeds: one a member.
    """

    def __init__(self, config: RankerConfig, seeds: Sequence[int]) -> None:
        self.config, self.seeds = config, seeds
        self.members: list[HistGradientBoostingClassifier] = []

    def fit(
        self,
        train: tuple[np.ndarray, np.ndarray, np.ndarray],
        valid: tuple[np.ndarray, np.ndarray, np.ndarray],
        categorical: list[int],
    ) -> "Ranker":
        """Trains every member, stopping early on the validation rows.

        Args:
            train, valid: features [N, F], labels [N], weights [N].
            categorical: columns that hold categories 0 .. max_bins - 1.

        Raises:
            BadInput: a part lacks one of the two labels.
        """
        for name, (_, label_N, _) in (("training", train), ("validation", valid)):
            if not 0 < label_N.sum() < len(label_N):
                raise BadInput(f"the ranker's {name} rows hold one label only ({len(label_N)} rows): widen its window")
        settings = self.config.model_dump(exclude={"patience"})
        settings |= {"early_stopping": True, "categorical_features": categorical or None}
        for seed in self.seeds:
            trees = HistGradientBoostingClassifier(
                **settings,
                n_iter_no_change=self.config.patience,
                random_state=seed,
            )
            X_NF, label_N, weight_N = train
            trees.fit(X_NF, label_N, weight_N, X_val=valid[0], y_val=valid[1], sample_weight_val=valid[2])
            self.members.append(trees)
        return self

    def predict(self, X_NF: np.ndarray) -> np.ndarray:
        """Each member's probability of a purchase: float64 [S, N]."""
        return np.stack([trees.predict_proba(X_NF)[:, 1] for trees in self.members])


def binned(
    X_NF: np.ndarray,
    train: np.ndarray,
    max_bins: int,
    categorical: Sequence[int] = (),
    like_NF: np.ndarray | None = None,
) -> np.ndarray:
    """Features as bin numbers between quantiles of the training rows: uint8 [N, F].

    The trees would bin by themselves, but for every fit anew, and with weights several times slower than they grow.

    Args:
        X_NF: features.
        train: the training rows' numbers.
        max_bins: at most so many bins.
        categorical: columns whose values are bin numbers already.
        like_NF: features whose quantiles they are; None: their own.
    """
    like_NF = X_NF if like_NF is None else like_NF
    shares = np.linspace(0, 1, max_bins + 1)[1:-1]
    bins_NF = np.empty(X_NF.shape, np.uint8)
    for column, values_N in enumerate(X_NF.T):
        if column in categorical:
            bins_NF[:, column] = values_N
        else:
            edges = np.unique(np.quantile(like_NF[train, column], shares))
            bins_NF[:, column] = np.searchsorted(edges, values_N, side="left")
    return bins_NF
