"""The systems that can be compared, their specs, and the table and HTML page of their figures."""

from pathlib import Path

import pytest

from learn_spark.cli.main import build_parser, main
from learn_spark.comparison.page import render
from learn_spark.comparison.sampled_table import sampled_lines, sampled_table
from learn_spark.comparison.table import gathered, lines, over_seeds
from learn_spark.config.load import Config, load_config
from learn_spark.errors import ConfigError
from learn_spark.evaluation.rivals import check_rivals, chosen_rivals
from learn_spark.pipeline import STEPS
from learn_spark.runs.fingerprints import settings_of
from learn_spark.systems.specs import TOWER_VARIANTS, chosen_systems, known_systems, training_spec
from models.contract.settings import LossConfig, identity
from models.contract.training_specs import ALSSpec, SequentialSpec, TowersSpec
from tests.builders.encoders import save_tiny_llama

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(CONF / "demo.yaml")


def test_every_shipped_system_fits_a_config_that_can_train_it(tmp_path: Path) -> None:
    settings = [f"embedding.model={save_tiny_llama(tmp_path)}", "comparison.sampled.rows=5"]
    config = load_config(CONF / "demo.yaml", settings)
    for name, system in chosen_systems(config, list(known_systems(config))).items():
        if not system.is_trained:
            continue
        spec = training_spec(config, system, seed=7)
        assert spec.train.seed == 7, name
        assert type(spec)(**spec.told(), out_dir=tmp_path) == type(spec)(**spec.told(), out_dir=tmp_path), name
        if system.reads_texts:
            assert spec.model.llm.digest, "another model in that folder is another training"
        elif system.kind == "sequential":
            assert isinstance(spec, SequentialSpec) and spec.model.d_model == config.towers.model.d_model, name
        elif system.kind == "als":
            assert isinstance(spec, ALSSpec) and spec.model.d_model == config.towers.model.embedding_dim, name
        else:
            assert isinstance(spec, TowersSpec), name


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_the_item_towers_can_be_compared_by_every_ready_config(name: str) -> None:
    config = load_config(CONF / f"{name}.yaml")
    specs = [training_spec(config, each, 1) for each in chosen_systems(config, TOWER_VARIANTS).values()]
    assert [spec.loss.negatives for spec in specs] == ["in_batch"] * 4
    chosen_systems(config, config.comparison.systems)


def test_a_system_changes_what_it_names_and_nothing_else(config: Config) -> None:
    base, changed = (training_spec(config, known_systems(config)[name], 1) for name in ("learn", "variant_2"))
    assert base.towers == config.towers.model
    assert changed.towers == base.towers.model_copy(update={"item_tower": "shared_self"})
    assert changed.told() | {"towers": 0} == base.told() | {"towers": 0}


def test_the_papers_setting_has_no_switch_of_the_config(config: Config) -> None:
    paper = training_spec(config, known_systems(config)["paper"], 1)
    assert config.towers.model.content_residual
    assert not paper.towers.content_residual
    assert paper.loss == LossConfig()
    assert paper.towers.d_model == config.towers.model.d_model


def test_systems_of_ones_own_stand_beside_the_shipped(config: Config) -> None:
    own = load_config(CONF / "demo.yaml", ["comparison.define={deep: {title: Deep, kind: towers, model: {layers: 4}}}"])
    assert training_spec(own, chosen_systems(own, ["deep"])["deep"], 1).towers.layers == 4


def test_a_system_can_be_like_another_but_for_what_it_names() -> None:
    defined = "{slow: {like: leader, title: Slow, train: {epochs: 9}}, slower: {like: slow, model: {dropout: 0.4}}}"
    own = load_config(CONF / "demo.yaml", [f"comparison.define={defined}"])
    systems = chosen_systems(own, ["leader", "slow", "slower"])
    leader, slow, slower = (training_spec(own, system, 1) for system in systems.values())
    assert (systems["slower"].title, systems["slower"].popularity_prior) == ("Slow", 0)
    assert isinstance(slow, TowersSpec) and isinstance(slower, TowersSpec) and isinstance(leader, TowersSpec)
    assert slow.model_copy(update={"train": leader.train}) == leader and slow.train.epochs == 9
    assert slower.towers == leader.towers.model_copy(update={"dropout": 0.4})
    assert slower.train == slow.train


@pytest.mark.parametrize(
    ("override", "names", "said"),
    [
        ("comparison.define={a: {like: leeder}}", ["a"], "define.a: like names leeder; there are learn, paper"),
        ("comparison.define={a: {like: b}, b: {like: a}}", ["a"], "goes in a circle"),
        ("comparison.define={a: {like: a}}", ["a"], "like: a goes in a circle"),
        (
            "comparison={filter_seen: true, define: {a: {like: sasrec, fitted: true}}}",
            ["a"],
            "system a is fitted, .* with comparison.filter_seen they are no candidates",
        ),
        ("evaluation.seed=7", ["learnt"], "no system learnt; there are learn, paper"),
        ("comparison.sampled.rows=0", ["rec_to_llm", "learn"], "system rec_to_llm .* set comparison.sampled.rows"),
        ("comparison.sampled.rows=9", ["rec_to_llm_zero"], "rec_to_llm_zero has nothing beside it"),
        ("evaluation.seed=7", ["llm_lora"], "system llm_lora: .* is a bert, not a causal decoder .* comparison.define"),
        ("evaluation.seed=7", ["notellm"], "system notellm: .* is a bert, not a causal decoder"),
        ("comparison.define={a: {title: A, kind: notellm, model: {llm: {model: /no}}}}", ["a"], "folder /no does not"),
        ("comparison.define={a: {title: A, kind: towers, model: {heads: 7}}}", ["a"], "not a multiple of heads 7"),
        (
            "comparison.define={a: {title: A, kind: towers, embedding: {dtype: int8}}}",
            ["a"],
            "system a: embedding: `dtype`",
        ),
        ("comparison.define={a: {like: als, train: {epochs: 3}}}", ["a"], "train is set, .* als has no steps"),
        ("comparison.define={a: {like: als, model: {alpha: 0}}}", ["a"], "system a: model: `alpha`: .* greater than 0"),
        (
            "comparison.define={a: {title: A, kind: sequential, model: {depth: 7}}}",
            ["a"],
            "unknown key `depth`; known: ",
        ),
        (
            "comparison.define={a: {title: A, kind: towers, train: {epoch: 7}}}",
            ["a"],
            "train: unknown key `epoch`; did you mean epochs",
        ),
        (
            "comparison.define={a: {title: A, kind: popularity, popularity_prior: 1}}",
            ["a"],
            "takes no popularity_prior",
        ),
        (
            "comparison.define={a: {title: A, kind: towers, loss: {negatives: sampled}}}",
            ["a"],
            "draws items that go in",
        ),
    ],
)
def test_what_does_not_fit_is_named_before_any_work(override: str, names: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chosen_systems(load_config(CONF / "demo.yaml", [override]), names)


def test_leave_one_out_has_no_day_before_which_items_are_known() -> None:
    config = load_config(CONF / "online_retail_baskets.yaml", ["evaluation.candidates=known"])
    with pytest.raises(ConfigError, match="leave_one_out has no such day: set evaluation.candidates to catalogue"):
        chosen_systems(config, ["popularity"])


def test_a_system_that_is_not_trained_takes_no_settings() -> None:
    with pytest.raises(ConfigError, match="kind popularity is not trained"):
        load_config(CONF / "demo.yaml", ["comparison.define={a: {title: A, kind: popularity, train: {epochs: 2}}}"])


def test_the_command_line_takes_dashes_and_lists(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = build_parser().parse_args(["compare", "--config", "c.yaml", "--systems", "learn, id", "--seeds", "1,2"])
    assert (args.systems, args.seeds) == (["learn", "id"], [1, 2])
    config = ["--config", str(CONF / "demo.yaml"), "--set", f"lake.root={tmp_path}"]
    assert main(["compare-towers", *config, "--systems", "nobody"]) == 2
    assert "compare_towers: error: there is no system nobody" in capsys.readouterr().err


def figures(recall: float) -> dict[str, object]:
    parts = ("cold_items", "long_tail_items", "other_items", "cold_users", "other_users")
    return {
        "recall_at_10": recall / 2,
        "recall_at_50": recall,
        "ci90": {
            "recall_at_10": [recall / 2 - 0.01, recall / 2 + 0.01],
            "recall_at_50": [recall - 0.01, recall + 0.01],
        },
        "segments": {part: {"recall_at_10": recall / 2, "recall_at_50": recall, "targets": 9} for part in parts},
        "seconds": 1.0,
        "seconds_per_user": 0.001,
        "parameters": 10,
        "sampled": {
            "recall_at_1": recall / 3,
            "recall_at_5": recall,
            "ndcg_at_10": recall,
            "mrr": recall / 2,
            "rows": 6,
        },
    }


@pytest.fixture(scope="module")
def comparison(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("models")
    result = '{"parameters": 1234, "seconds": 20.0, "best_step": 7}'
    models = {("variant_1", seed): folder / str(seed) for seed in (1, 2)}
    for path in models.values():
        path.mkdir()
        (path / "result.json").write_text(result)
    chosen = {name: known_systems(config)[name] for name in ("popularity", "variant_1", "rec_to_llm_zero")}
    ranked = {"popularity": figures(0.2), "variant_1.1": figures(0.3), "variant_1.2": figures(0.4)}
    costs = {"model_parameters": 4000, "tokens_per_user": 321.0, "seconds_per_user": 0.5}
    ranked["rec_to_llm_zero"] = {"sampled": figures(0.7)["sampled"] | costs | {"seconds_per_user_all_items": 77.0}}
    return {
        "name": "compare",
        "protocol": {
            "rows_measured": "test",
            "split": "global time",
            "candidates": "30 items known on the test day",
            "test_from": None,
            "seeds": [1, 2],
            "rows": {"train": 4321, "val": 7},
        },
        "data": {"users": 10, "targets": 20, "items": 33, "candidates": 30},
        "systems": gathered(chosen, ranked, models),
        "sampled": sampled_table({"rows": 9, "candidates": 20, "seed": 1}, chosen, ranked, models),
        "published": {"SASRec of the paper": {"recall_at_50": 0.3872}},
        "diverged": {"mlp with seed 1": "loss nan at step 9"},
    }


def test_seeds_become_mean_and_deviation(comparison: dict[str, object]) -> None:
    row = comparison["systems"]["variant_1"]
    assert row["metrics"]["recall_at_50"] == {
        "mean": pytest.approx(0.35),
        "std": pytest.approx(0.0707, abs=1e-4),
        "values": [0.3, 0.4],
    }
    assert (row["parameters"], row["train_seconds"], row["steps"]) == (1234, 20.0, [7, 7])
    assert over_seeds([0.2])["std"] is None


def test_the_table_ranks_the_best_first_and_ends_with_what_was_published(comparison: dict[str, object]) -> None:
    of, head, first, second, published, diverged = lines(comparison)
    assert of == "test rows: 10 users, 20 targets; candidates: 30 items known on the test day"
    assert "R@50" in head
    assert first.startswith("Variant 1") and "0.3500 ±0.0707" in first
    assert second.startswith("Popularity")
    assert published.startswith("SASRec of the paper") and published.endswith("published")
    assert "0.3872" in published
    assert diverged == "mlp with seed 1 has no model: loss nan at step 9"


def test_sampled_candidates_have_a_table_of_their_own(comparison: dict[str, object]) -> None:
    assert "rec_to_llm_zero" not in comparison["systems"], "it ranks no item but the sampled ones"
    first, head, *rows, note = sampled_lines(comparison["sampled"])
    assert first.startswith("6 rows, 20 sampled candidates each") and "MRR" in head
    assert [row.split("  ")[0] for row in rows] == [
        "Recommendation as a prompt, zero-shot",
        "Variant 1 (causal over the targets)",
        "Popularity",
    ]
    assert rows[0].endswith("77.0 s") and "321" in rows[0] and "0.1750 ±0.0354" in rows[1]
    assert note.endswith("of 4,000 parameters shows mechanics and cost, not what such systems can do")
    assert sampled_lines(None) == []


def test_the_page_draws_systems_curves_segments_and_protocol(comparison: dict[str, object]) -> None:
    curves = {("variant_1", seed): [{"step": 1, "loss": 3.0}, {"step": 1, "recall_at_50": 0.1}] for seed in (1, 2)}
    page = render(comparison, curves, "recall_at_50")
    for text in ("Variant 1", "± 0.0707", "SASRec of the paper", "0.3872", "Cold items", "global time", "1,234"):
        assert text in page, text
    assert "mlp with seed 1 has no model" in page
    assert "Ranked: 30 items known on the test day." in page and "20 targets; candidates: 30 items known" in page
    assert "Not comparable with figures over all items" in page and "mechanics and cost" in page
    assert "Sampled candidates" not in render(comparison | {"sampled": None}, curves, "recall_at_50")
    assert "<td>1, 2</td>" in page and "<td>train 4,321, val 7</td>" in page and "None" not in page
    assert page.count("<svg") == 3
    assert "<script" not in page


def rivals_config(*settings: str) -> Config:
    return load_config(CONF / "demo.yaml", list(settings))


def test_rivals_are_as_wide_as_the_embeddings_unless_another_width_is_asked_for() -> None:
    config = rivals_config(
        "evaluation.rivals=[als, sasrec, wide, id, cooccurrence]",
        "comparison.define={wide: {like: sasrec, model: {d_model: 32}}}",
    )
    rivals = chosen_rivals(config)
    assert [rivals[name].model.get("d_model") for name in ("als", "sasrec", "wide")] == [64, 64, 32]
    assert training_spec(config, rivals["sasrec"], seed=1).model.d_model == config.towers.model.embedding_dim
    assert "d_model" not in rivals["id"].model and not rivals["cooccurrence"].model


def test_rivals_count_among_what_the_evaluation_is_made_from() -> None:
    step, plain = STEPS["evaluate_features"], rivals_config("evaluation.rivals=[]")
    assert settings_of(plain, step) == {name: identity(getattr(plain, name)) for name in step.sections}
    assert "rivals" not in settings_of(plain, step)["evaluation"], "lakes of before keep their fingerprint"
    told = [
        settings_of(rivals_config("evaluation.rivals=[sasrec]", f"comparison.define={{sasrec: {change}}}"), step)
        for change in ("{}", "{model: {dropout: 0.3}}")
    ]
    assert told[0] != told[1] and told[0]["rivals"] != told[1]["rivals"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("[sasreck]", "there is no system sasreck; there are learn, paper"),
        (
            "[popularity]",
            "rivals: popularity is of kind popularity, which says nothing of a user and an item",
        ),
        ("[mean_content]", "kinds that do: towers, sequential, als, notellm, cooccurrence"),
    ],
)
def test_what_is_no_rival_is_refused_before_the_work(names: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_rivals(rivals_config(f"evaluation.rivals={names}"))


def test_rivals_can_be_named_on_the_command_line() -> None:
    said = ["--config", "a.yaml", "--set", "evaluation.seed=3", "--rivals", "als,sasrec"]
    args = build_parser().parse_args(["evaluate_features", *said])
    config = load_config(CONF / "demo.yaml", args.set)
    assert config.evaluation.rivals == ["als", "sasrec"] and config.evaluation.seed == 3
