"""Whether a user's training rows can be told from those of users whom the model never saw; and after a retrain without.

Three groups of users are drawn: members, who are forgotten later, as many others who are never trained on, and the
rest. The attacker has the rows of members and others, and the model. He asks how likely it makes each user's own
targets (mean log probability among all trained films) and orders users by that, or by how far it exceeds what another
model says that saw neither group: what is hard for any model is then no sign. AUC of this order: .5 is a guess.

    python -m benchmarks.membership --lake build/movielens_100k/lake --work build/membership --out FILE

The lake needs `run_pipeline --steps ingest_events,build_sequences,embed_items,train_towers`. A split trains three
models on copies of the towers' snapshots, without the rows of users that they must not see: those that an export gives
after a forget.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score

from models.contract.result import SPEC, is_finished, write_spec
from models.contract.snapshot import Manifest, SnapshotFile, open_snapshot, read_manifest, write_manifest
from models.contract.training_specs import TowersSpec
from models.data.content import ContentMatrix
from models.saved import load_towers

TARGET = 0.52


@dataclass(frozen=True)
class Split:
    """Users by what becomes of them."""

    members: list[str]
    others: list[str]


def drawn(users: list[str], size: int, seed: int) -> Split:
    """Members and others, at random."""
    order = np.random.default_rng(seed).permutation(len(users))
    names: list[str] = [users[i] for i in order]
    return Split(names[:size], names[size : 2 * size])


def rows_of(snapshot: Path) -> pa.Table:
    """All rows of a snapshot, in its order."""
    return pa.concat_tables([pq.read_table(file) for file in open_snapshot(snapshot).files])


def of_users(rows: pa.Table, users: Collection[str]) -> np.ndarray:
    """Which rows are of some users, bool [rows]."""
    return np.isin(rows["user_id"].to_pylist(), list(users))


def without(snapshot: Path, users: Collection[str], target: Path) -> Path:
    """A snapshot less the rows of some users."""
    if (target / "manifest.json").is_file():
        return target
    rows = rows_of(snapshot)
    kept = rows.filter(pa.array(~of_users(rows, users)))
    target.mkdir(parents=True, exist_ok=True)
    file = target / "part-00000.parquet"
    pq.write_table(kept.combine_chunks(), file, row_group_size=max(1, kept.num_rows))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    old = read_manifest(snapshot)
    told = SnapshotFile(path=file.name, rows=kept.num_rows, bytes=file.stat().st_size, sha256=digest)
    named = {"source_table": old.source_table, "source_version": old.source_version, "schema": old.columns}
    write_manifest(target, Manifest(**named, rows=kept.num_rows, files=(told,)))
    return target


def trained(spec: TowersSpec, folder: Path, unseen: Collection[str], seed: int) -> Path:
    """Towers that never saw some users."""
    own = spec.model_copy(
        update={
            "train_snapshot": without(spec.train_snapshot, unseen, folder / "train"),
            "val_snapshot": without(spec.val_snapshot, unseen, folder / "val"),
            "train": spec.train.model_copy(update={"seed": seed}),
            "out_dir": folder / "model",
        }
    )
    if not is_finished(own.out_dir):
        command = [sys.executable, "-m", "models", own.command, "--spec", str(write_spec(own))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return own.out_dir


def log_likelihoods(model: Path, content: ContentMatrix, rows: pa.Table, films_I: np.ndarray) -> dict[str, float]:
    """Per user the mean log probability of his or her targets, among all films."""
    towers = load_towers(model)
    hist_BH, tar_BT = (np.array(rows[name].to_pylist()) for name in ("hist_items", "tar_items"))
    user_BK = towers.embed_users(hist_BH, np.array(rows["hist_len"]), content)
    item_IK = towers.embed_items(films_I, content)
    with torch.no_grad():
        logits_BI = torch.from_numpy(user_BK) @ torch.from_numpy(item_IK).T * float(towers.scale)
        logits_BI += towers.bias(torch.from_numpy(films_I))
    logp_BI = torch.log_softmax(logits_BI, dim=1).numpy()
    place = {film: i for i, film in enumerate(films_I.tolist())}
    told: dict[str, list[float]] = {}
    for user, targets_T, logp_I in zip(rows["user_id"].to_pylist(), tar_BT, logp_BI, strict=True):
        told.setdefault(user, []).extend(float(logp_I[place[film]]) for film in targets_T.tolist() if film in place)
    return {user: float(np.mean(values)) for user, values in told.items() if values}


def attack(split: Split, score: dict[str, float]) -> float:
    """AUC of members against others."""
    users = [user for user in (*split.members, *split.others) if user in score]
    is_member = np.array([user in set(split.members) for user in users])
    return float(roc_auc_score(is_member, [score[user] for user in users]))


def measured(spec: TowersSpec, work: Path, seed: int, size: int) -> dict[str, float]:
    """A split's attacks: on the model that saw the members, and on the one that was trained again without them."""
    rows = rows_of(spec.train_snapshot)
    users = sorted(set(rows["user_id"].to_pylist()))
    split = drawn(users, size, seed)
    both = [*split.members, *split.others]
    is_asked = of_users(rows, both)
    asked, rest = rows.filter(pa.array(is_asked)), rows.filter(pa.array(~is_asked))
    folder = work / f"split-{seed}"
    saw = trained(spec, folder / "before", split.others, seed)
    again = trained(spec, folder / "after", both, seed)
    reference = trained(spec, folder / "reference", both, seed + 1000)
    content = ContentMatrix(spec.content_matrix)
    films_I = np.array(sorted({film for targets in rest["tar_items"].to_pylist() for film in targets if film}))
    told = {
        name: log_likelihoods(model, content, asked, films_I)
        for name, model in {"before": saw, "after": again, "reference": reference}.items()
    }
    base = told.pop("reference")
    found = {f"loss_{name}": attack(split, score) for name, score in told.items()}
    for name, score in told.items():
        found[f"calibrated_{name}"] = attack(split, {user: value - base[user] for user, value in score.items()})
    return found


def main() -> int:
    """Prints and writes the attacks of all splits; 3 where a retrained model tells more than the target."""
    parser = argparse.ArgumentParser(description="Membership of users in the towers, before and after a retrain.")
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="gets the trainings; what is there is kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=8)
    parser.add_argument("--size", type=int, default=150, help="members; as many others")
    args = parser.parse_args()
    (model,) = (args.lake / "_artifacts" / "models").glob("towers-*")
    spec = TowersSpec.load(model / SPEC)
    found = []
    for seed in range(args.splits):
        found.append(measured(spec, args.work, seed, args.size))
        print(seed, " ".join(f"{name} {value:.3f}" for name, value in found[-1].items()), flush=True)
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    errors = {name: float(np.std([one[name] for one in found], ddof=1) / len(found) ** 0.5) for name in found[0]}
    told = {"splits": found, "mean": means, "standard_error": errors, "members": args.size, "target": TARGET}
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    print("mean", " ".join(f"{name} {value:.3f}" for name, value in means.items()))
    return 0 if max(means["loss_after"], means["calibrated_after"]) <= TARGET else 3


if __name__ == "__main__":
    sys.exit(main())
