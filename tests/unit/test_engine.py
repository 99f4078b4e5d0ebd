"""What decides, before there is a session, whether Spark runs with Comet."""

from pathlib import Path

import pyspark
import pytest

from learn_spark.config.load import Config, load_config
from learn_spark.config.sections import SparkSettings
from learn_spark.errors import ConfigError
from learn_spark.lake import engine
from learn_spark.lake.engine import COMET, engine_settings, is_worth_it, misfit

OFF = {"spark.comet.enabled": "false"}
SENT = {"spark.jars.packages": COMET}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Simulates Linux with Spark 4.1 and Comet's jar in Spark's folder of jars; gives that folder."""
    monkeypatch.setattr(engine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(engine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(pyspark, "__version__", "4.1.1")
    (tmp_path / "cpuinfo").write_text("flags\t: fpu avx avx2 bmi2\n")
    monkeypatch.setattr(engine, "_CPU", tmp_path / "cpuinfo")
    jars = tmp_path / "pyspark" / "jars"
    jars.mkdir(parents=True)
    monkeypatch.setattr(pyspark, "__file__", str(jars.parent / "__init__.py"))
    (jars / "org.apache.datafusion_comet-spark-spark4.1_2.13-1.2.0.jar").touch()
    return jars


def with_engine(config: Config, name: str, **spark: object) -> Config:
    return config.model_copy(update={"spark": SparkSettings.model_validate({"engine": name, **spark})})


def grow(file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as handle:
        handle.truncate(size)


def test_spark_is_plain_whatever_is_there(config: Config) -> None:
    assert engine_settings(with_engine(config, "spark"), {"spark.plugins": "org.apache.spark.CometPlugin"}) == OFF


def test_comet_gets_half_of_the_heap_beside_it_or_what_the_config_says(config: Config) -> None:
    settings = engine_settings(with_engine(config, "comet", driver_memory="3g"))
    assert settings["spark.plugins"] == "org.apache.spark.CometPlugin"
    assert settings["spark.comet.enabled"] == "true"
    assert settings["spark.memory.offHeap.size"] == "1536m"
    for conf, size in (
        ({"spark.memory.offHeap.size": "5g"}, "5g"),
        ({"spark.executor.memory": "8192"}, "4096m"),
        ({"spark.executor.memory": "1024k"}, "0m"),
        ({"spark.executor.memory": "16GB"}, "8192m"),
    ):
        settings = engine_settings(with_engine(config, "comet", conf=conf))
        assert settings["spark.memory.offHeap.size"] == size


def test_a_size_of_memory_that_is_none_is_said(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"'lots' is no size of memory .* write 3g"):
        engine_settings(with_engine(config, "comet", driver_memory="lots"))


def test_auto_takes_comet_from_a_size_of_the_log_on(config: Config, tmp_path: Path) -> None:
    log = config.model_copy(update={"ingest": config.ingest.model_copy(update={"path": tmp_path / "logs"})})
    grow(tmp_path / "logs" / "a.csv", engine._WORTH_BYTES - 1)
    assert not is_worth_it(log) and engine_settings(with_engine(log, "auto")) == OFF
    grow(tmp_path / "logs" / "below" / "b.csv", 1)
    assert is_worth_it(log) and engine_settings(with_engine(log, "auto"))["spark.comet.enabled"] == "true"
    grow(config.lake.root / "interactions" / "ds=2011-12-01" / "part.parquet", 1)
    assert not is_worth_it(log), "of a lake that is there, its events count"
    assert engine_settings(with_engine(log, "comet"))["spark.comet.enabled"] == "true"


def test_auto_on_a_cluster_needs_a_jar_that_reaches_the_executors(config: Config) -> None:
    grow(config.lake.root / "interactions" / "part.parquet", engine._WORTH_BYTES)
    on_a_cluster = with_engine(config, "auto", master="spark://host:7077")
    assert engine_settings(on_a_cluster) == OFF
    assert engine_settings(on_a_cluster, SENT)["spark.comet.enabled"] == "true"
    assert engine_settings(with_engine(config, "auto"), {"spark.master": "yarn"}) == OFF


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("jar", f"its jar is not on Spark's class path: run `make setup`, or give spark-submit --packages {COMET}"),
        ("spark", "its jar is for Spark 4.1, while this is Spark 4.0.5"),
        ("system", "it has no library for Darwin on x86_64, but for Linux on x86_64 and aarch64"),
        ("machine", "it has no library for Linux on riscv64, but for Linux on x86_64 and aarch64"),
        ("cpu", "its library needs a processor with AVX2"),
        ("shuffle", "spark.shuffle.manager is org.apache.spark.shuffle.celeborn.SparkShuffleManager already"),
    ],
)
def test_what_is_missing_is_a_line_where_comet_is_asked_for(
    config: Config, machine: Path, monkeypatch: pytest.MonkeyPatch, broken: str, said: str
) -> None:
    grow(config.lake.root / "interactions" / "part.parquet", engine._WORTH_BYTES)
    conf = {}
    match broken:
        case "jar":
            for jar in machine.iterdir():
                jar.unlink()
        case "spark":
            monkeypatch.setattr(pyspark, "__version__", "4.0.5")
        case "shuffle":
            conf = {"spark.shuffle.manager": "org.apache.spark.shuffle.celeborn.SparkShuffleManager"}
        case "cpu":
            (machine / "cpuinfo").write_text("flags\t: fpu sse4_2 avx\n")
            monkeypatch.setattr(engine, "_CPU", machine / "cpuinfo")
        case _:
            value = {"system": "Darwin", "machine": "riscv64"}[broken]
            monkeypatch.setattr(engine.platform, broken, lambda: value)
    assert engine_settings(with_engine(config, "auto", conf=conf)) == OFF
    assert (misfit() is None) == (broken in ("jar", "shuffle"))
    with pytest.raises(ConfigError) as caught:
        engine_settings(with_engine(config, "comet", conf=conf))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert "spark.engine auto or spark does without Comet" in str(caught.value)


def test_settings_of_comet_that_may_change_rows_are_refused() -> None:
    for key in ("spark.comet.enabled", "spark.comet.expression.Cast.allowIncompatible", "spark.comet.scan.enabled"):
        with pytest.raises(ValueError, match="conf sets"):
            SparkSettings(conf={key: "true"})
    SparkSettings(conf={"spark.comet.batchSize": "16384", "spark.comet.shuffle.compression.codec": "zstd"})


def test_no_engine_changes_a_fingerprint() -> None:
    from learn_spark.pipeline import STEPS
    from learn_spark.runs.fingerprints import Fingerprints

    both = [load_config(Path("conf/test.yaml"), [f"spark.engine={name}"]) for name in ("spark", "comet")]
    day = both[0].windows.towers_end
    for step in STEPS:
        plain, native = (Fingerprints(config, STEPS, dict)._settings_of(STEPS[step]) for config in both)
        assert plain == native, (step, day)
