"""Made-up figures of a whole run, in the form in which the stages record them in the ledger."""

from datetime import UTC, date, datetime

import numpy as np

from learn_spark.lake.schemas import TABLES
from learn_spark.runs.ledger import Recorded

RETRIEVAL = {
    "candidates": "known",
    "users": 1480,
    "items": 3402,
    "targets": 42810,
    "targets_not_known": 611,
    "targets_new": 24007,
    **{
        f"{scorer}{new}{metric}_at_{k}": round(base * (0.7 if new else 1) * (0.4 if k == 10 else 1), 4)
        for scorer, base in (
            ("fitted_", 0.36),
            ("", 0.3),
            ("without_prior_", 0.2),
            ("popularity_", 0.18),
            ("last_item_", 0.21),
            ("mean_content_", 0.22),
            ("mean_content_with_prior_", 0.24),
        )
        for new in ("", "new_")
        for metric in ("recall", "ndcg")
        for k in (10, 50)
    },
}
RETRIEVAL["weights"] = {
    "repeat_bias": 3.5,
    "popularity_prior": 1.0,
    "before": {"recall_at_50": 0.28},
    "after": {"recall_at_50": 0.34},
    "tried": 41,
}
RETRIEVAL |= {f"{name}_ci90": [value - 0.01, value + 0.01] for name, value in RETRIEVAL.items() if "_at_" in name}


def gain(without: float, gained: float, spread: float = 0.003, name: str = "auc") -> dict[str, object]:
    return {
        f"{name}_without": without,
        f"{name}_with": without + gained,
        f"{name}_gain": gained,
        f"{name}_gain_ci90": [gained - spread, gained + spread],
    }


RANKER = {
    "rows": {"train": 150204, "validation": 40118, "test": 233071},
    "users": 1893,
    "features": {"without": 17, "with": 179},
    **gain(0.7185, 0.0112, 0.0021),
    "auc_gain_by_seed": [0.0109, 0.0115, 0.0112],
    **gain(0.688, 0.009, 0.004, "uauc"),
    **gain(0.701, 0.007, 0.003, "wuauc"),
    "segments": {
        "cold_users": {"rows": 21040, "users": 402, **gain(0.643, 0.031, 0.009)},
        "other_users": {"rows": 212031, "users": 1491, **gain(0.724, 0.009)},
        "cold_items": {"rows": 120, "users": 60, **dict.fromkeys(["auc_without", "auc_with", "auc_gain"])}
        | {"auc_gain_ci90": [None, None]},
        "long_tail_items": {"rows": 40310, "users": 1711, **gain(0.66, 0.018, 0.005)},
        "other_items": {"rows": 190000, "users": 1880, **gain(0.72, 0.008)},
    },
    "trial_seeds": 1,
    "alone": {
        "user_emb": gain(0.718, 0.004),
        "item_emb": gain(0.718, 0.006),
        "mid_emb": gain(0.718, 0.0085),
        "item_content": gain(0.718, 0.0011),
        "item_id": gain(0.718, -0.0002),
        "shuffled": gain(0.718, -0.0004, 0.002),
    },
}
CALIBRATED = {
    **{"auc": 0.6667, "uauc": None, "log_loss": 0.4811, "calibration_error": 0.0123},
    "calibration": [
        {"predicted": 0.05 + tenth / 20, "observed": 0.04 + tenth / 18, "weight": 1234.0 + tenth} for tenth in range(10)
    ],
}
GATES = [
    {"name": "users_on_first_day", "value": 3480.0, "lower": 1.0, "upper": None, "passed": True},
    {"name": "item_effective_rank", "value": 21.4, "lower": 4.0, "upper": None, "passed": True},
    {"name": "item_mean_cosine", "value": 0.113, "lower": None, "upper": 0.9, "passed": True},
]
RELEASE = {
    "release_id": "20111210-ab12cd34",
    "model_versions": {"towers": "1f2e3d", "cvr": "99aa88", "learn-towers": "1", "learn-cvr": "1"},
    "encoder_id": "bert-6-384-0123456789ab",
    "gates": GATES,
    "published_at": datetime(2011, 12, 11, 4, 30, tzinfo=UTC),
    "days": [date(2011, 10, 10), date(2011, 12, 10)],
}
TITLES = ["WHITE HANGING HEART T-LIGHT HOLDER", "JUMBO BAG RED RETROSPOT", "REGENCY CAKESTAND 3 TIER"]


def details() -> dict[str, dict[str, object]]:
    """Figures by stage, as in `StepResult.details`."""
    steps = np.arange(10, 900, 10)
    curve = [{"step": int(s), "loss": float(1.2 + 4 * np.exp(-s / 150))} for s in steps]
    towers = [
        {"step": s, "recall_at_50": 0.1 + 0.2 * s / 900, "ndcg_at_50": 0.05 + s / 9000} for s in range(0, 900, 150)
    ]
    result = {"steps": 900, "parameters": 512_345, "best_step": 750, "best": {}}
    neighbours = [
        {"title": title, "neighbours": [{"title": near, "cosine": 0.81} for near in TITLES if near != title]}
        for title in TITLES
    ]
    norms = {name: {"mean": 3.7, "p5": 3.6, "p95": 3.8} for name in ("user_emb", "item_emb", "mid_emb")}
    return {
        "ingest_events": {"rejects": {"user_id is missing": 135080}},
        "build_sequences": {},
        "embed_items": {"texts": 3702},
        "train_towers": {
            "curve": curve + towers,
            "result": result,
            "registered_model": "learn-towers",
            "model_version": "1",
        },
        "train_cvr": {
            "curve": curve + [{"step": s, "auc": 0.6 + s / 9000, "log_loss": 0.5} for s in (0, 300, 600)],
            "result": result | {"best": CALIBRATED},
        },
        "write_features": {
            "effective_rank": 21.4,
            "mean_cosine": 0.113,
            "norms": norms,
            "neighbours": neighbours,
        },
        "evaluate_features": {"retrieval": RETRIEVAL, "ranker": RANKER},
    }


def recorded() -> list[Recorded]:
    """A ledger: one run of every stage, ingest over two days."""
    rows = [
        Recorded(step, date(2011, 12, 10), "f" * 16, "run000000001", 541_909, 392_692, 31.5 + 9 * number, figures)
        for number, (step, figures) in enumerate(details().items())
    ]
    first = rows[0]
    return [Recorded(first.step, date(2011, 12, 9), *list(vars(first).values())[2:]), *rows]


def summary() -> dict[str, object]:
    """A summary as `build_summary` and `publish_report` make it."""
    stages = {
        row.step: {
            "seconds": row.seconds,
            "rows_in": row.rows_in,
            "rows_out": row.rows_out,
            "days": 1,
            "runs": 1,
        }
        for row in recorded()
    }
    return {
        "stages": stages,
        "retrieval": RETRIEVAL,
        "ranker": RANKER,
        "rejects": {"user_id is missing": 135_080, "title is <missing>": 1_454, "no day": 12},
        "tables": {name: {"path": f"/lake/{name}", "version": 3, "rows": 12_345} for name in TABLES},
        "release_id": RELEASE["release_id"],
        "peak_rss_mb": 4312,
    }
