"""A plain ranker as in production: gradient-boosted trees. Shapes: N rows, F features, S seeds."""

import ctypes
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.failures import BadInput
from models.contract.settings import RankerConfig

# Training trees runs thousands of short parallel loops. Threads that spin while they wait starve each other once cores
# are shared. OpenMP reads this variable once, when it is loaded; it has no effect if torch was imported before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _load_openmp() -> None:
    """Loads the OpenMP library from torch's wheel, if it has one, without importing torch.

    LightGBM's wheel contains none and needs the system's, which slim images lack.
    """
    torch = find_spec("torch")
    if torch and torch.origin and (library := Path(torch.origin).with_name("lib") / "libgomp.so.1").is_file():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


_load_openmp()

import lightgbm  # noqa: E402

Part = tuple[np.ndarray, np.ndarray, np.ndarray]


class Ranker:
    """Trees on one feature matrix: one ensemble of trees (a member) per seed.

    Args:
        config: the trees' settings.
        seeds: one per member.
        threads: number of threads for training and scoring.
    """

    def __init__(self, config: RankerConfig, seeds: Sequence[int], threads: int) -> None:
        self.config, self.seeds, self.threads = config, seeds, threads
        self.members: list[lightgbm.Booster] = []

    def fit(self, train: Part, valid: Part, categorical: list[int]) -> "Ranker":
        """Trains every member, stopping early on the validation rows. The members share the features' bins.

        Args:
            train, valid: features [N, F], labels [N], weights [N].
            categorical: columns that hold categories, whole numbers from 0 on.

        Raises:
            BadInput: a part lacks one of the two labels.
        """
        for name, (_, label_N, _) in (("training", train), ("validation", valid)):
            if not 0 < label_N.sum() < len(label_N):
                raise BadInput(f"the ranker's {name} rows hold one label only ({len(label_N)} rows): widen its window")
        settings = self._settings()
        X_NF, label_N, weight_N = train
        rows = lightgbm.Dataset(X_NF, label_N, weight=weight_N, categorical_feature=categorical, params=settings)
        X_NF, label_N, weight_N = valid
        held_out = rows.create_valid(X_NF, label_N, weight=weight_N)
        for seed in self.seeds:
            stop = lightgbm.early_stopping(self.config.patience, verbose=False)
            self.members.append(
                lightgbm.train({**settings, "seed": seed}, rows, self.config.max_iter, [held_out], callbacks=[stop])
            )
        return self

    def predict(self, X_NF: np.ndarray) -> np.ndarray:
        """Each member's probability of a purchase: float64 [S, N]."""
        return np.stack([np.asarray(trees.predict(X_NF, num_threads=self.threads)) for trees in self.members])

    def _settings(self) -> dict[str, Any]:
        """LightGBM's parameters, chosen so that the figures are the same for any number of threads."""
        return {
            "objective": "binary",
            "learning_rate": self.config.learning_rate,
            "num_leaves": self.config.max_leaf_nodes,
            "min_data_in_leaf": self.config.min_samples_leaf,
            "lambda_l2": self.config.l2_regularization,
            "max_bin": self.config.max_bins,
            "feature_fraction": self.config.max_features,
            "num_threads": self.threads,
            "deterministic": True,
            "force_col_wise": True,
            "verbosity": -1,
        }
