"""A wrong config gives an error of one line that names the key, before any work."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from learn_spark.config.ingest import IngestSettings
from learn_spark.config.load import Config, load_config
from learn_spark.config.mapping import FieldMappings
from learn_spark.config.model_sections import CodeSettings, FeatureSettings
from learn_spark.config.presets import PRESETS
from learn_spark.config.renamed import RENAMED
from learn_spark.config.sections import SequenceSettings
from learn_spark.errors import ConfigError
from models.contract.settings import identity

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("name", ["demo", "test", "kuaishou"])
def test_shipped_configs_are_valid(name):
    assert isinstance(load_config(CONF / f"{name}.yaml"), Config)


@pytest.fixture(scope="module")
def script():
    """scripts/base_yaml.py."""
    spec = importlib.util.spec_from_file_location("base_yaml", CONF.parent / "scripts" / "base_yaml.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_base_says_what_the_classes_say(script):
    assert (CONF / "base.yaml").read_text(encoding="utf-8") == script.base_yaml()


def test_base_holds_every_key_with_its_default():
    base = load_config(CONF / "base.yaml").model_dump(mode="json")
    ours = Config().model_dump(mode="json")
    for section, key in (("lake", "root"), ("output", "dir"), ("ingest", "path")):
        assert base[section][key] == str(CONF / ours[section].pop(key)), "relative to the file's folder"
        del base[section][key]
    assert base == ours
    assert set(yaml.safe_load((CONF / "base.yaml").read_text())) == set(ours)


def switches(config):
    return (
        config.towers.model.content_residual,
        config.towers.loss.mask_false_negatives,
        config.cvr.model.fusion == "concat+product",
    )


OF_THE_PAPER = (
    *("amazon_2018", "amazon_2023", "csv", "kuairand", "kuaishou", "movielens_100k", "movielens_100k_leave_one_out"),
    *("movielens_1m", "movielens_20m", "online_retail_baskets", "test"),
)


def test_shipped_configs_keep_the_switches_that_their_figures_were_measured_with():
    assert {switches(load_config(CONF / f"{name}.yaml")) for name in OF_THE_PAPER} == {(False, False, False)}
    assert {switches(load_config(CONF / f"{name}.yaml")) for name in ("base", "demo", "tour")} == {(True, True, True)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (True, True, True)),
        ("preset: recommended", (True, True, True)),
        ("preset: paper", (False, False, False)),
        ("preset: paper\ntowers: {model: {content_residual: true}}", (True, False, False)),
        ("towers: {model: {content_residual: false}}", (False, True, True)),
        ("extends: paper.yaml", (False, False, False)),
        ("extends: paper.yaml\npreset: recommended", (True, True, True)),
        ("extends: base.yaml\npreset: paper", (False, False, False)),
        ("extends: base.yaml", (True, True, True)),
    ],
)
def test_a_preset_lies_under_the_values_of_its_file(tmp_path, text, expected):
    (tmp_path / "paper.yaml").write_text("preset: paper\n")
    (tmp_path / "base.yaml").write_text((CONF / "base.yaml").read_text())
    (tmp_path / "own.yaml").write_text(f"{text}\nlake: {{root: lake}}\n")
    assert switches(load_config(tmp_path / "own.yaml")) == expected
    assert switches(load_config(tmp_path / "own.yaml", ["preset=paper"])) == (False, False, False)


def test_presets_name_the_same_keys_and_an_unknown_one_is_refused(tmp_path):
    def keys(values):
        return {name: keys(inner) if isinstance(inner, dict) else None for name, inner in values.items()}

    assert len({json.dumps(keys(values)) for values in PRESETS.values()}) == 1
    (tmp_path / "own.yaml").write_text("preset: papre\n")
    with pytest.raises(ConfigError, match="preset"):
        load_config(tmp_path / "own.yaml")


def test_every_key_has_one_explanation(script):
    def check(value, name):
        told = script.explanations(type(value))
        for key in type(value).model_fields:
            inner, place = getattr(value, key), f"{name}.{key}"
            if isinstance(inner, BaseModel) and not isinstance(inner, FieldMappings):
                assert inner.__doc__, place
                check(inner, place)
            else:
                assert key in told, f"{place} has no explanation below it"

    check(Config(), "config")


def places(value, of):
    """The dotted keys of a config whose last part is one of `of`."""
    for key, inner in value:
        yield from [key] if key in of else []
        if isinstance(inner, BaseModel):
            yield from (f"{key}.{rest}" for rest in places(inner, of))


def test_what_changes_no_row_is_left_out_of_identity_wherever_it_stands():
    config = Config()
    apart = list(places(config, {"run", "gates"}))
    assert len(apart) == 10
    for place in apart:
        section, *_ = place.split(".")
        told = identity(getattr(config, section))
        for part in place.split(".")[1:-1]:
            told = told[part]
        assert told and place.rpartition(".")[2] not in told


@pytest.mark.parametrize(
    ("override", "is_other"),
    [
        ("towers.train.run.log_every=3", False),
        ("towers.run.launcher=torchrun", False),
        ("towers={ranks: 2, run: {launcher: torchrun}}", True),
        ("towers.train.device=cpu", True),
        ("towers.train.batch_size=9", True),
        ("ingest.path=elsewhere", False),
        ("ingest.gates.min_day_share=0.5", False),
        ("ingest.mapping.event_type={column: kind, map: {run: purchase}, default: purchase}", True),
    ],
)
def test_identity_holds_what_changes_rows_and_nothing_else(override, is_other):
    config, other = load_config(CONF / "csv.yaml"), load_config(CONF / "csv.yaml", [override])
    section = override.partition(".")[0].partition("=")[0]
    assert (identity(getattr(config, section)) != identity(getattr(other, section))) == is_other


def test_a_lake_that_petastorm_cannot_read_is_said_before_the_work():
    for name in ("what?", "a#b", "a\nb"):
        with pytest.raises(ConfigError, match=r"lake\.root .*: Petastorm cannot read .* stream\.reader: arrow"):
            load_config(CONF / "csv.yaml", [f"lake.root={json.dumps(f'/lakes/{name}')}"])
    assert load_config(CONF / "csv.yaml", ["lake.root=/lakes/what?", "stream.reader=arrow"]).lake.root.name == "what?"


def test_a_mapping_of_a_value_called_run_is_identity():
    one, other = (
        load_config(CONF / "csv.yaml", [f"ingest.mapping.event_type={{column: kind, map: {{run: {kind}}}}}"])
        for kind in ("view", "purchase")
    )
    assert identity(one.ingest) != identity(other.ingest)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("towers.train.threads=2", "`towers.train.threads` is now `towers.train.run.threads`"),
        ("features.keep_releases=2", "`features.keep_releases` is now `releases.keep_releases`"),
        ("towers.launch={mode: spark}", "`towers.launch.mode` is now `towers.run.launcher`"),
        ("towers.train.clip_norm=1", "`towers.train.clip_norm` is now `towers.train.max_grad_norm`"),
        (
            "comparison.keep_seen=false",
            "`comparison.keep_seen` is now `comparison.filter_seen`, which says the opposite",
        ),
        ("towers.loss.negatives=catalogue", "`towers.loss.negatives`: catalogue is now full_softmax"),
        (
            "comparison.define={a: {loss: {negatives: catalogue}}}",
            "`comparison.define.a.loss.negatives`: catalogue is now full_softmax",
        ),
        (
            "comparison.define={a: {prior_weight: 0}}",
            "`comparison.define.a.prior_weight` is now `comparison.define.a.popularity_prior`",
        ),
        (
            "comparison.define={a: {model: {out_dim: 9}}}",
            "`comparison.define.a.model.out_dim` is now `comparison.define.a.model.embedding_dim`",
        ),
        (
            "comparison.define={a: {title: A, kind: towers, train: {threads: 2}}}",
            "`comparison.define.a.train.threads` is now `comparison.define.a.train.run.threads`",
        ),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(override, said):
    with pytest.raises(ConfigError) as caught:
        load_config(CONF / "demo.yaml", [override])
    assert said in str(caught.value)


def test_every_new_name_is_a_key_and_no_old_one_is():
    def has(key):
        value = Config()
        for part in key.split("."):
            if part not in type(value).model_fields:
                return False
            value = getattr(value, part)
        return True

    assert [new for new in RENAMED.values() if not has(new)] == []
    assert [old for old in RENAMED if has(old)] == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("towers={ranks: 2}", "ranks is 2, but run.launcher is process: set it to torchrun or spark"),
        ("towers.trian.seed=3", "unknown key `towers.trian`; did you mean train?"),
        ("nonsense.key=1", "unknown key `nonsense`; known: preset, ingest, lake, output"),
        ("towers.train.rate=7", "unknown key `towers.train.rate`"),
        ("towers.train.seed=x", "`towers.train.seed`"),
        ("windows.end=2011-01-01", "must come after"),
        ("windows.end=yesterday", "`windows.end`"),
        ("sequences.target_events=[view]", "['view']"),
        ("ingest.files='{night}.csv'", "{day}"),
        ("ingest.encoding=klingon", "`ingest.encoding`"),
        ("windows.first_as_of=2011-10-01", "no training as-of date"),
        ("sequences.target_days=100", "retrieval is tested there"),
        ("lake.root", "section.key=value"),
        ("lake.root=[", "not YAML"),
        ("spark.shuffle_partitions=0", "`spark.shuffle_partitions`"),
        ("samples.labels=observed", "labels observed needs exposure_events: name some of ingest.event_types"),
        ("samples.exposure_events=[seen]", "samples names event types ['seen']"),
        ("samples.labels=clicked", "`samples.labels`"),
        ("towers.loss.event_type_weights={purchase: 2}", "sequences.keep_event_types is off: set it true"),
        ("towers.loss.event_type_weights={purchase: -1}", "`towers.loss.event_type_weights.purchase`"),
    ],
)
def test_a_wrong_value_is_named(override, said):
    with pytest.raises(ConfigError) as caught:
        load_config(CONF / "demo.yaml", [override])
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


OBSERVED = "samples={labels: observed, exposure_events: [purchase], conversion_events: [purchase], conversion_days: %d}"
OTHER = "samples.other_labels.big={%s}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [OBSERVED % 3],
            "samples.conversion_days (3) leaves no exposure whose label is known in cvr.validation_days (3",
        ),
        ([OBSERVED % 22, "cvr.validation_days=30"], "the samples' window from 2011-10-10 to 2011-11-01 (22 days)"),
        ([OBSERVED % 0, "cvr.log_q=true"], "cvr.log_q corrects sampled negatives, but samples.labels is observed"),
        ([OBSERVED % 0, OTHER % "events: [purchase], days: 3"], "samples.other_labels.big.days (3) leaves no exposure"),
        (
            [OTHER % "events: [purchase], days: 0"],
            "other_labels (big) are of exposures, and sampled items were not shown",
        ),
        ([OBSERVED % 0, OTHER % "events: [purchase], day: 1"], "unknown key `samples.other_labels.big.day`"),
        ([OBSERVED % 0, OTHER % "events: []"], "`samples.other_labels.big.events`"),
        ([OBSERVED % 0, OTHER % "events: [share]"], "samples.other_labels.big names event types ['share']"),
        ([OBSERVED % 0, "samples.other_labels.label={events: [purchase]}"], "label is the conversion's own name"),
        ([OBSERVED % 0, "samples.other_labels={a-b: {events: [purchase]}}"], "`samples.other_labels.a-b"),
        (
            [OBSERVED % 0, OTHER % "events: [purchase], days: 0", "cvr.label_weights={cart: 1}"],
            "weighs cart; samples.other_labels has big",
        ),
        (["cvr.label_weights={cart: 1}"], "cvr.label_weights weighs cart; samples.other_labels names none"),
    ],
)
def test_observed_labels_need_room_in_every_window(overrides, said):
    with pytest.raises(ConfigError) as caught:
        load_config(CONF / "demo.yaml", overrides)
    assert said in str(caught.value)
    assert load_config(CONF / "demo.yaml", [OBSERVED % 2]).samples.labels == "observed"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")


def test_extends_goes_on_but_not_in_a_circle(tmp_path):
    (tmp_path / "base.yaml").write_text((CONF / "base.yaml").read_text())
    (tmp_path / "shop.yaml").write_text("extends: base.yaml\ncvr: {validation_days: 5}\nlake: {root: shop}\n")
    (tmp_path / "trial.yaml").write_text("extends: shop.yaml\nlake: {root: trial}\n")
    trial = load_config(tmp_path / "trial.yaml")
    assert (trial.cvr.validation_days, trial.lake.root) == (5, tmp_path / "trial")
    (tmp_path / "base.yaml").write_text("extends: trial.yaml\n")
    with pytest.raises(ConfigError, match=r"base\.yaml: `extends: trial\.yaml` goes in a circle"):
        load_config(tmp_path / "trial.yaml")


def test_relative_paths_are_taken_from_the_files_folder(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    own = tmp_path / "conf" / "own.yaml"
    own.write_text((CONF / "base.yaml").read_text())
    monkeypatch.chdir("/")
    config = load_config(own, ["output.dir=here"])
    assert config.lake.root == tmp_path / "conf" / "lake"
    assert config.output.dir == Path("/here")


def test_without_extends_all_keys_have_their_defaults(tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text("cvr: {train: {seed: 3}}\n")
    monkeypatch.chdir("/")
    config = load_config(tmp_path / "own.yaml")
    assert (config.lake.root, config.output.dir) == (tmp_path / "lake", tmp_path / "output")
    assert config.ingest.path == tmp_path / "data"
    assert (config.cvr.train.seed, config.cvr.train.epochs, config.towers.train.epochs) == (3, 10, 5)


def test_extends_names_a_file_that_is_there(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(ConfigError, match=r"own\.yaml: `extends: base\.yaml`, but there is no .*/base\.yaml: without"):
        load_config(tmp_path / "own.yaml")


def test_a_mapping_inherits_no_columns(tmp_path):
    base = yaml.safe_load((CONF / "base.yaml").read_text())
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    own = {"extends": "base.yaml", "ingest": {"mapping": {"user_id": {"column": "u"}}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(ConfigError, match=r"`ingest\.mapping\.item_id` is missing"):
        load_config(tmp_path / "own.yaml")


def test_set_overrides_a_nested_key():
    config = load_config(CONF / "demo.yaml", ["towers.train.seed=11", "spark.master=null"])
    assert config.towers.train.seed == 11
    assert config.spark.master is None


def test_the_readmes_config_is_valid(tmp_path):
    readme = (CONF.parent / "README.md").read_text(encoding="utf-8")
    (tmp_path / "shop.yaml").write_text(readme.split("```yaml\n")[1].split("```")[0])
    assert load_config(tmp_path / "shop.yaml").ingest.mapping.source_columns() == ["customer", "sku", "time", "name"]


def test_leave_one_out_needs_one_kind_of_event():
    with pytest.raises(ConfigError, match=r"history_events \['purchase'\] and target_events \['cancel'\] equal"):
        load_config(CONF / "online_retail_baskets.yaml", ["sequences.target_events=[cancel]"])


def test_event_types_have_codes_in_the_order_of_the_lists():
    kept = {"history_events": ["view", "cart"], "target_events": ["cart", "purchase"], "keep_event_types": True}
    assert SequenceSettings(**kept).event_types == ("view", "cart", "purchase")
    assert SequenceSettings(**kept | {"keep_event_types": False}).event_types == ()
    assert SequenceSettings(**kept).types_of_targets("all_action") == ["cart", "purchase"]
    assert SequenceSettings(**kept).types_of_targets("next_item") == ["view", "cart", "purchase"]
    plain = identity(SequenceSettings())
    assert "keep_event_types" not in plain and identity(SequenceSettings(keep_event_types=True)) != plain
    kept = ["sequences.keep_event_types=true", "sequences.history_events=[purchase, cancel]"]
    for weights, said in (
        ("{cancel: 0}", r"loss\.event_type_weights names cancel; the targets of this loss are purchase"),
        ("{purchase: 0}", r"loss\.event_type_weights is 0 for all targets \(purchase\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(CONF / "demo.yaml", [*kept, f"towers.loss.event_type_weights={weights}"])
    weights = "towers.loss.event_type_weights={cancel: 0.5}"
    next_item = ["towers.loss.pairs=next_item", "towers.loss.negatives=full_softmax", "towers.model.item_tower=mlp"]
    assert load_config(CONF / "demo.yaml", [*kept, *next_item, weights]).towers.loss.event_type_weights == {
        "cancel": 0.5
    }


def test_keys_that_came_later_change_no_fingerprint():
    """Keys that were added later do not change a lake's identity at their defaults; other values do."""
    plain, mapping = identity(IngestSettings()), IngestSettings().mapping
    assert not IngestSettings.LATER & set(plain) and not {"origin", "clock", "clock_unit"} & set(
        plain["mapping"]["event_ts"]
    )
    other = IngestSettings(nulls=["NA"], mapping=mapping)
    assert identity(other) == {**plain, "nulls": ["NA"]}
    plain, codes = identity(FeatureSettings()), {"levels": 3, "size": 64, "seed": 8}
    assert "codes" not in plain and identity(FeatureSettings(codes=CodeSettings(seed=8))) == {**plain, "codes": codes}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lake.root", "gs://bucket/lake", "a store that learn-spark knows"),
        ("lake.root", "s3a:/bucket/lake", "a store that learn-spark knows"),
        ("lake.root", "s3a://", "names no bucket"),
        ("lake.root", "s3a://name:word@bucket/lake", "names no bucket"),
        ("ingest.path", "hdfs:/host:8020/logs", "a store that learn-spark knows"),
        ("ingest.items.path", "abfss://box@account.dfs.core.windows.net/x", "a store that learn-spark knows"),
        ("output.dir", "file:///tmp/output", "a store that learn-spark knows"),
    ],
)
def test_a_place_that_cannot_be_reached_is_refused(key, value, said):
    with pytest.raises(ConfigError, match=f"`{key}`: '.+{said}"):
        load_config(CONF / "test.yaml", [f"{key}={value}"])


def test_a_place_of_a_source_is_refused_likewise(tmp_path):
    file = tmp_path / "sources.yaml"
    file.write_text("ingest: {sources: [{path: 'gs://bucket/clicks', files: '{day}.csv'}]}")
    with pytest.raises(ConfigError, match="`ingest.sources.0.path`: 'gs://bucket/clicks'"):
        load_config(file)


def test_lookups_lie_where_their_lines_do_or_beside_the_config(tmp_path):
    lookups = "{order: {files: o.csv, by: id}, aisle: {path: ../far, files: a.csv, by: sku}}"
    mapping = "{user_id: {column: order.user}, item_id: {column: sku}, event_ts: {column: aisle.t, unit: days},"
    mapping += " event_type: {constant: purchase}, title: {column: sku}}"
    (tmp_path / "lookups.yaml").write_text(
        f"ingest: {{path: logs, files: l.csv, lookups: {lookups}, mapping: {mapping},"
        " sources: [{path: one, files: s.csv}, {lookups: {order: {path: two, files: o.csv, by: id},"
        " aisle: {path: s3a://b, files: a.csv, by: sku}}}]}"
    )
    section = load_config(tmp_path / "lookups.yaml").ingest
    first, second = section.each()
    assert {name: str(each.path) for name, each in first.lookups.items()} == {
        "order": f"{tmp_path}/one",
        "aisle": f"{tmp_path.parent}/far",
    }
    assert {name: str(each.path) for name, each in second.lookups.items()} == {
        "order": f"{tmp_path}/two",
        "aisle": "s3a://b",
    }


def test_a_store_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setattr("learn_spark.storage.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"`lake.root`: 's3a://bucket' needs the package s3fs: pip install"):
        load_config(CONF / "test.yaml", ["lake.root=s3a://bucket"])


def test_all_places_in_a_store_are_reached_by_the_options_which_nothing_shows(monkeypatch):
    monkeypatch.setenv("THE_SECRET", "of-the-store-42")
    stored = ["lake.root=s3://bucket/lake/", "ingest.path=s3a://logs", "lake.options.key=AKIAFORTHISTEST"]
    config = load_config(CONF / "test.yaml", [*stored, "lake.options.secret=${THE_SECRET}"])
    assert str(config.lake.root) == "s3a://bucket/lake"
    for place in (config.lake.root, config.ingest.path, config.ingest.each()[0].path):
        assert place.options == {"key": "AKIAFORTHISTEST", "secret": "of-the-store-42"}
    for text in (config.as_text(), repr(config.lake.root), json.dumps(identity(config.ingest), default=str)):
        assert "of-the-store" not in text
        assert "AKIA" not in text
        assert "s3a://logs" not in text or text == config.as_text()
    assert "s3a://bucket/lake" in config.as_text()


def test_local_places_are_paths_and_need_no_package():
    config = load_config(CONF / "test.yaml")
    assert isinstance(config.lake.root, Path)
    assert isinstance(config.ingest.path, Path)
