"""What a wrong config gets: one line that names the key, before any work."""

from pathlib import Path

import pytest
import yaml

from learn_spark.config.load import Config, load_config
from learn_spark.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("name", ["demo", "test", "kuaishou"])
def test_shipped_configs_are_valid(name):
    assert isinstance(load_config(CONF / f"{name}.yaml"), Config)


def test_base_names_every_key():
    def keys(model):
        return {
            name: keys(field.annotation) if hasattr(field.annotation, "model_fields") else None
            for name, field in model.model_fields.items()
        }

    base = yaml.safe_load((CONF / "base.yaml").read_text())
    for section, wanted in keys(Config).items():
        assert section in base
        missing = set(wanted or ()) - set(base[section])
        assert not missing, f"{section} lacks {missing}"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("towers.trian.seed=3", "unknown key `towers.trian`"),
        ("nonsense.key=1", "unknown key `nonsense`"),
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


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [OBSERVED % 3],
            "samples.conversion_days (3) leaves no exposure whose label is known in cvr.validation_days (3",
        ),
        ([OBSERVED % 22, "cvr.validation_days=30"], "the samples' window from 2011-10-10 to 2011-11-01 (22 days)"),
        ([OBSERVED % 0, "cvr.log_q=true"], "cvr.log_q corrects sampled negatives, but samples.labels is observed"),
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
    assert config.lake.root == tmp_path / "build" / "lake"
    assert config.output.dir == Path("/here")


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
    (tmp_path / "base.yaml").write_text((CONF / "base.yaml").read_text())
    (tmp_path / "shop.yaml").write_text(readme.split("```yaml\n")[1].split("```")[0])
    assert load_config(tmp_path / "shop.yaml").ingest.mapping.source_columns() == ["customer", "sku", "time", "name"]


def test_leave_one_out_needs_one_kind_of_event():
    with pytest.raises(ConfigError, match=r"history_events \['purchase'\] and target_events \['cancel'\] equal"):
        load_config(CONF / "online_retail_baskets.yaml", ["sequences.target_events=[cancel]"])
