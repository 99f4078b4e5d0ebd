"""Event types in the towers: what towers can learn from them, what they change and what not, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.contract.evaluation_specs import SystemsSpec
from models.contract.event_types import check_weights, codes_for
from models.contract.failures import BadInput
from models.contract.settings import TowersConfig
from models.contract.snapshot import open_snapshot, read_manifest, write_manifest
from models.contract.trained_model import CONFIG
from models.contract.training_specs import TowersSpec
from models.data.content import ContentMatrix
from models.data.stream import read_column
from models.evaluation.evaluate_systems import run as evaluate
from models.saved import load_towers, save_towers
from models.towers.losses import Candidates, all_action_info_nce, next_item_info_nce
from models.towers.space import ScoringTowers, require_known_types, turn_into
from models.towers.towers import Towers
from models.training.train_towers import TowersTask, _following, run
from tests.builders.tensors import random_vectors, sequences_table, with_types, write_matrix, write_snapshot

TYPES = ("view", "cart", "dislike")
NUM_ITEMS, FILMS = 40, 12
SIZES = {"d_model": 16, "heads": 2, "layers": 1, "embedding_dim": 8, "max_len": 6, "dropout": 0.0}
KINDS = {
    "paper": {},
    "recommended": {"content_residual": True},
    "mean": {"pooling": "mean", "content_residual": True, "item_tower": "mlp"},
    "pooling_mlp": {"user_tower": "pooling_mlp", "item_tower": "content"},
}
ALONE = {"item_tower": "shared_self"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, rows, seed in (("train", 60, 0), ("val", 30, 1)):
        table = sequences_table(rows, NUM_ITEMS, seed=seed)
        write_snapshot(folder / f"{name}_plain", table)
        write_snapshot(folder / name, with_types(table, len(TYPES), seed), event_types=TYPES)
    write_matrix(folder / "matrix", random_vectors(NUM_ITEMS))
    return folder


def spec_of(folder, learned="train", validated="val", **changes):
    return TowersSpec(
        **{
            "train_snapshot": folder / learned,
            "val_snapshot": folder / validated,
            "content_matrix": folder / "matrix",
            "out_dir": folder / "none",
            "towers": SIZES,
            "train": {"batch_size": 30, "seed": 1, "run": {"threads": 1}},
            **changes,
        }
    )


def task_of(spec):
    torch.manual_seed(0)
    snapshots = (open_snapshot(path) for path in (spec.train_snapshot, spec.val_snapshot))
    task = TowersTask(spec, *snapshots, ContentMatrix(spec.content_matrix))
    task.model.eval()
    return task


def first_batch(task):
    task.generator.manual_seed(3)
    return task._prepare(next(iter(task._reader(epoch=0))))


def rated(num_rows, films, seed):
    """Rows of `films` films. Users who liked the last one (type 1) see its sequel next, others (2) its opposite."""
    rng = np.random.default_rng(seed)
    film_RH, type_RH = rng.integers(1, 1 + FILMS, (num_rows, films)), rng.integers(1, 3, (num_rows, films))
    target_R = film_RH[:, -1] + FILMS * type_RH[:, -1]
    columns = {"hist_items": film_RH, "tar_items": target_R[:, None], "hist_ts": film_RH * 0 + 1_300_000_000}
    lists = {name: pa.array(list(values.astype(np.int32))) for name, values in columns.items()}
    types = {"hist_types": type_RH, "tar_types": np.ones((num_rows, 1))}
    lists |= {name: pa.array(list(values.astype(np.int8))) for name, values in types.items()}
    lengths = {name: pa.array([n] * num_rows, pa.int32()) for name, n in (("hist_len", films), ("tar_len", 1))}
    return pa.table({"user_id": [f"u{row}" for row in range(num_rows)], **lists, **lengths})


@pytest.mark.parametrize(("kind", "films"), [("recommended", 2), ("pooling_mlp", 1)])
def test_the_type_alone_decides_what_comes_next(tmp_path, kind, films):
    names = ("like", "dislike")
    write_snapshot(tmp_path / "train", rated(1500, films, 0), event_types=names, row_group_size=500)
    write_snapshot(tmp_path / "val", rated(400, films, 1), event_types=names, row_group_size=500)
    write_matrix(tmp_path / "matrix", random_vectors(3 * FILMS, dim=24))
    hits = {}
    for reads in (False, True):
        sizes = {"d_model": 32, "embedding_dim": 32, "layers": 2, "max_len": 3, "event_types": reads}
        spec = spec_of(
            tmp_path,
            out_dir=tmp_path / f"towers_{reads}",
            towers=SIZES | KINDS[kind] | sizes | {"item_tower": "mlp"},
            loss={"mask_false_negatives": True, "num_anchors": 1, "alpha": 2, "beta": 10000},
            train={"batch_size": 64, "epochs": 12, "learning_rate": 0.01, "seed": 1, "run": {"threads": 1}},
            stream={"reader": "arrow"},
            validation={"k": 1, "popularity_prior": 0.0},
        )
        hits[reads] = run(spec).best["recall_at_1"]
        assert load_towers(spec.out_dir).event_types == (names if reads else ())
    assert hits[False] < 0.6, "a coin decides without types"
    assert hits[True] > 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_types_change_nothing(data, kind):
    losses = []
    for train, val, reads in (("train_plain", "val_plain", True), ("train", "val", False), ("train", "val", True)):
        task = task_of(spec_of(data, train, val, towers=SIZES | KINDS[kind] | {"event_types": reads}))
        batch = first_batch(task)
        assert ("hist_types" in batch) == (train == "train" and reads)
        losses.append(task.loss(batch).item())
        assert task.model.event_types == (TYPES if "hist_types" in batch else ())
    assert losses[0] == losses[1] == losses[2]


def test_one_type_trains_as_none_where_it_is_not_read(data, tmp_path):
    """Training gives the same losses, step by step, and equal files."""
    found = []
    for name, plain, towers in (("a", "_plain", {}), ("b", "", {"event_types": False})):
        changes = {"batch_size": 16, "epochs": 2, "seed": 1, "run": {"threads": 1, "log_every": 1}}
        made = {"out_dir": tmp_path / name, "towers": SIZES | towers, "train": changes, "stream": {"reader": "arrow"}}
        spec = spec_of(data, f"train{plain}", f"val{plain}", **made)
        run(spec)
        lines = map(json.loads, (spec.out_dir / "metrics.jsonl").read_text().splitlines())
        losses = [line["loss"] for line in lines if "loss" in line]
        found.append((losses, (spec.out_dir / "model.safetensors").read_bytes()))
    assert found[0] == found[1]


def test_each_types_vector_and_weight_reach_the_embedding(data):
    content = ContentMatrix(data / "matrix")
    hist, length = np.array([[3, 7, 9], [3, 7, 0]]), np.array([3, 2])
    for kind, changes in KINDS.items():
        torch.manual_seed(0)
        towers = Towers(TowersConfig(**SIZES | changes), content.dim, content.rows, TYPES).eval()
        for weight in towers.output_layers:
            torch.nn.init.normal_(weight.weight, 0, 0.3)
        types = np.array([[1, 2, 3], [1, 2, 0]])
        plain = towers.embed_users(hist, length, content, hist_types_BH=types)
        for table in (towers.events.vector, towers.events.offset):
            with torch.no_grad():
                table.weight[2] += torch.randn(table.weight.shape[1])
            changed = towers.embed_users(hist, length, content, hist_types_BH=types)
            assert (np.abs(changed - plain).max(1) > 1e-3).all(), kind
            other = towers.embed_users(hist, length, content, hist_types_BH=np.where(types == 2, 1, types))
            assert (np.abs(other - changed).max(1) > 1e-3).all(), kind
            plain = changed
        behind = types + np.array([[0, 0, 0], [0, 0, 2]])  # values after a history's end do not matter
        np.testing.assert_array_equal(towers.embed_users(hist, length, content, hist_types_BH=behind), plain)


def test_weighted_pairs_are_a_weighted_mean():
    torch.manual_seed(0)
    B, N, T, K = 5, 3, 4, 6
    anchor, target = (torch.nn.functional.normalize(torch.randn(B, n, K, dtype=torch.float64), dim=-1) for n in (N, T))
    is_anchor, is_target = torch.rand(B, N) > 0.3, torch.rand(B, T) > 0.3
    user, weight = torch.arange(B), torch.tensor([0.0, 0.25, 1.0, 3.0])[torch.randint(4, (B, T))]
    candidates = Candidates.in_batch(target, is_target, user)

    def loss(which, **weights):
        return all_action_info_nce(anchor, target, is_anchor, which, 5.0, candidates, user, **weights).item()

    total = pairs = 0.0
    for b, t in is_target.nonzero().tolist():
        one = torch.zeros_like(is_target)
        one[b, t] = True
        counted = weight[b, t].item() * is_anchor[b].sum().item()
        total, pairs = total + counted * loss(one), pairs + counted
    assert loss(is_target, weight_BT=weight) == pytest.approx(total / pairs)
    assert loss(is_target, weight_BT=torch.full_like(weight, 0.25)) == pytest.approx(loss(is_target))
    assert loss(is_target, weight_BT=weight * (weight == 1)) == pytest.approx(loss(is_target & (weight == 1)))
    assert loss(is_target, weight_BT=torch.zeros_like(weight)) == 0
    drawn = Candidates(target[0], torch.zeros(T, dtype=torch.float64), torch.arange(T) + 100)
    rows, item = (anchor[:, 0], target[:, 1]), torch.arange(B)
    ones = [next_item_info_nce(rows[0][[p]], rows[1][[p]], item[[p]], 5.0, drawn).item() for p in range(B)]
    found = next_item_info_nce(*rows, item, 5.0, drawn, weight_P=weight[:, 0])
    assert found.item() == pytest.approx(np.average(ones, weights=weight[:, 0]))


@pytest.mark.parametrize("pairs", ["all_action", "next_item"])
def test_the_task_weighs_by_the_type_of_the_target(data, pairs):
    loss = {"pairs": pairs, "negatives": "full_softmax", "event_type_weights": {"cart": 0.5, "dislike": 0}}
    task = task_of(spec_of(data, towers=SIZES | ALONE | {"event_types": False}, loss=loss))
    assert not task.model.event_types, "weights do not need a tower that reads types"
    raw = next(iter(task._reader(epoch=0)))
    task.generator.manual_seed(3)
    batch = task._prepare(raw)
    of_type = np.array([0, 1, 0.5, 0])
    if pairs == "all_action":
        types = np.take_along_axis(raw["tar_types"].numpy(), batch["targets"].numpy(), 1)
        is_real = batch["is_target"].numpy()
    else:
        types, is_real = np.zeros(batch["hist"].shape, int), batch["is_followed"].numpy()
        for row, length in enumerate(raw["hist_len"].tolist()):
            of_row = [*raw["hist_types"][row, 1:length].tolist(), int(raw["tar_types"][row, 0])]
            types[row, : len(of_row)] = of_row
    np.testing.assert_array_equal(batch["weight"].numpy()[is_real], of_type[types][is_real])
    whole = task.loss(batch)
    halved = task.loss(batch | {"weight": batch["weight"] / 2})
    assert whole.item() == pytest.approx(halved.item()) and whole.item() != pytest.approx(
        task.loss({name: value for name, value in batch.items() if name != "weight"}).item()
    )


def test_what_follows_a_position():
    hist, tar = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([[7, 8], [9, 0]])
    assert _following(hist, torch.tensor([3, 1]), tar).tolist() == [[2, 3, 7], [9, 0, 0]]


def test_names_go_with_the_model_and_others_are_refused(data, tmp_path):
    content = ContentMatrix(data / "matrix")
    towers = Towers(TowersConfig(**SIZES), content.dim, content.rows, TYPES)
    save_towers(tmp_path / "towers", towers)
    loaded = load_towers(tmp_path / "towers")
    assert loaded.event_types == TYPES
    save_towers(tmp_path / "plain", Towers(TowersConfig(**SIZES), content.dim, content.rows))
    assert "event_types" not in json.loads((tmp_path / "plain" / CONFIG).read_text()), "as before there were types"
    hist, length = np.array([[3, 7]]), np.array([2])
    wrong = (
        (None, "view, cart, dislike"),
        ([[1]], "lack"),
        ([[1, 4]], "type 4"),
        ([[0, 1]], "type 0"),
        ([[-1, 1]], "-1"),
    )
    for types, told in wrong:
        with pytest.raises(BadInput, match=told):
            loaded.embed_users(hist, length, content, hist_types_BH=None if types is None else np.array(types))
    assert codes_for(TYPES, ["dislike", "view"], "m").tolist() == [0, 3, 1]
    with pytest.raises(BadInput, match=r"m can read the event types view, cart, dislike, .* hold share: train anew"):
        codes_for(TYPES, ["view", "share"], "m")
    with pytest.raises(BadInput, match=r"have none: set sequences.keep_event_types: true"):
        codes_for(TYPES, [], "m")
    about = json.loads((tmp_path / "towers" / CONFIG).read_text())
    for names in ("view", ["view", "view"], [1, 2, 3]):
        changed = {key: value for key, value in about.items() if key != "sha256"} | {"event_types": names}
        (tmp_path / "towers" / CONFIG).write_text(json.dumps(changed))
        with pytest.raises(BadInput):
            load_towers(tmp_path / "towers")


def test_weights_of_no_target_are_refused(data):
    for weights, kept, targets, told in (
        ({"cart": 1}, (), ("cart",), "keep_event_types is off"),
        ({"share": 1, "cart": 2}, TYPES, ("cart",), r"names share; the targets of this loss are cart"),
        ({"cart": 0}, TYPES, ("cart",), "nothing would be learned"),
    ):
        with pytest.raises(BadInput, match=told):
            check_weights(weights, kept, targets)
    check_weights({"cart": 0}, TYPES, ("cart", "view"))
    with pytest.raises(BadInput, match="names share"):
        task_of(spec_of(data, loss={"event_type_weights": {"share": 1}}))
    with pytest.raises(BadInput, match="keep_event_types is off"):
        task_of(spec_of(data, "train_plain", "val_plain", loss={"event_type_weights": {"cart": 1}}))
    with pytest.raises(BadInput, match="has the event types view, cart, dislike, the validation's none"):
        task_of(spec_of(data, "train", "val_plain"))


def test_a_manifest_without_types_is_what_it_was(data, tmp_path):
    manifest = read_manifest(data / "train_plain")
    write_manifest(tmp_path, manifest)
    assert "event_types" not in json.loads((tmp_path / "manifest.json").read_text())
    assert open_snapshot(data / "train_plain").event_types == ()
    assert open_snapshot(data / "train").event_types == TYPES


def test_retrained_towers_with_types_are_turned_into_the_earlier_space(data):
    content = ContentMatrix(data / "matrix")
    made = []
    for types in (("dislike", "view"), ("view", "dislike")):
        torch.manual_seed(0)
        towers = Towers(TowersConfig(**SIZES), content.dim, content.rows, types).eval()
        with torch.no_grad():
            for code, name in enumerate(types, 1):
                towers.events.vector.weight[code] = torch.full((16,), {"view": 0.4, "dislike": -0.7}[name])
        made.append(towers)
    earlier, new = made
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))
    new.head.weight.data = torch.from_numpy(turn.T).float() @ new.head.weight.data
    new.head.bias.data = torch.from_numpy(turn.T).float() @ new.head.bias.data
    rng = np.random.default_rng(4)
    hist, length, types = (
        rng.integers(1, NUM_ITEMS + 1, (100, 6)),
        rng.integers(1, 7, 100),
        rng.integers(1, 3, (100, 6)),
    )
    both = ScoringTowers(new, content), ScoringTowers(earlier, content)
    found = turn_into(*both, np.arange(1, NUM_ITEMS + 1), hist, length, types, new.event_types)
    assert found["user_cosine"][1] == pytest.approx(1, abs=1e-5) and found["user_cosine"][0] < 0.9
    require_known_types(earlier, ["view"])
    for types, told in ((["cart"], "may hold cart"), ([], "have none")):
        with pytest.raises(BadInput, match=rf"the towers of the earlier release .*{told}.*compatible_with: none"):
            require_known_types(earlier, types)


def test_systems_with_and_without_types_are_measured_side_by_side(data, tmp_path):
    content = ContentMatrix(data / "matrix")
    for name, types in (("typed", TYPES[::-1]), ("plain", ())):
        torch.manual_seed(1)
        towers = Towers(TowersConfig(**SIZES), content.dim, content.rows, types)
        if types:
            torch.nn.init.normal_(towers.events.vector.weight, std=2.0)
        save_towers(tmp_path / name, towers)
    systems = [{"name": name, "kind": "model", "folder": tmp_path / name} for name in ("typed", "plain")]
    spec = SystemsSpec(
        train_snapshot=data / "train",
        test_snapshot=data / "val",
        content_matrix=data / "matrix",
        candidates="catalogue",
        systems=systems,
        out_dir=tmp_path / "out",
        resamples=10,
    )
    found = evaluate(spec)["systems"]
    assert found["typed"]["recall_at_10"] != found["plain"]["recall_at_10"]
    model, rows = load_towers(tmp_path / "typed"), open_snapshot(data / "val")
    columns = {name: read_column(rows, name) for name in ("hist_items", "hist_len", "hist_types", "tar_items")}
    as_known = np.array([0, 3, 2, 1])[columns["hist_types"]]
    user = model.embed_users(columns["hist_items"], columns["hist_len"], content, hist_types_BH=as_known)
    score = user @ model.embed_items(np.arange(NUM_ITEMS + 1), content).T
    ranks = np.load(tmp_path / "out" / "typed.npz")
    wanted = [
        (score[row, 1:] >= score[row, item] - 1e-6).sum() for row, item in zip(ranks["row"], ranks["item"], strict=True)
    ]
    np.testing.assert_array_equal(ranks["rank"], wanted)
    with pytest.raises(BadInput, match="these histories have none"):
        evaluate(spec.model_copy(update={"test_snapshot": data / "val_plain", "out_dir": tmp_path / "refused"}))
