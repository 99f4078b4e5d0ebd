"""No file of a run holds secrets of its config; modules in its working directory are not imported."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.commands import run_here
from tests.builders.hostile import CONF, PLAIN, SECRETS, places_of, ran
from tests.builders.journey import finished_journey

pytestmark = [pytest.mark.e2e, pytest.mark.long]

ALL = [*SECRETS.values(), PLAIN]


def test_no_file_of_the_journey_has_a_secret_and_nothing_was_imported_from_where_it_began(finished: Path) -> None:
    folder, done = finished_journey()
    assert ran(folder / "cwd") == []
    assert places_of(ALL, folder) == {secret: [] for secret in ALL}
    assert not [secret for secret in ALL if secret in done.out + done.err]
    shown = places_of(["${SHOP_S3_KEY}", "WHITE HANGING HEART", "learn-towers"], folder)
    assert all(shown.values()), "what is no secret is found"
    assert any(file.endswith("report/index.html") for file in shown["${SHOP_S3_KEY}"])
    assert any(file.endswith(".parquet") for file in shown["WHITE HANGING HEART"])
    assert any("mlflow.db" in file for file in shown["learn-towers"])


def test_what_fails_says_no_secret(finished: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret is in warnings, the ledger, `release show` or logs, with MLflow unreachable and a damaged table."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    uri = f"mlflow.tracking_uri=http://joe:${{SHOP_PASSWORD}}@127.0.0.1:9/?token={PLAIN}"
    given = ("--set", CONF, "--set", uri)
    done = run_here(finished, "train_cvr", "--restate", "--set", "cvr.train.seed=99", *given)
    assert done.code == 0 and "warning: MLflow is unreachable" in done.err, done.err
    shown = run_here(finished, "release", "show", *given)
    assert shown.code == 0
    for file in (finished / "lake" / "user_history").glob("*/*.parquet"):
        file.write_bytes(b"PAR1" + "|".join(ALL).encode() + b"PAR1")
        (file.parent / f".{file.name}.crc").unlink(missing_ok=True)
    failed = run_here(finished, "audit_leakage", *given)
    assert failed.code == 1, failed.err
    assert list((finished / "output" / "logs").glob("*.log"))
    said = "".join(each.out + each.err + str(each.summary) for each in (done, shown, failed))
    assert not [secret for secret in ALL if secret in said]
    places = places_of(ALL, finished / "output", finished / "lake" / "intervals", finished / "lake" / "_artifacts")
    assert places == {secret: [] for secret in ALL}


def test_spark_s_own_log_has_no_secret(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    from learn_spark.config.load import load_config
    from learn_spark.lake.session import build_session
    from tests.builders.commands import CONFIG

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    build_session(load_config(CONFIG, [CONF]), "tests", tmp_path / "spark.log")
    logger = spark._jvm.org.apache.logging.log4j.LogManager.getLogger("org.apache.hadoop.fs.s3a")
    logger.error(f"403 for {ALL[0]} and jdbc:postgresql://ann:pw@host/db")
    said = (tmp_path / "spark.log").read_text()
    assert "403 for *********(redacted) and jdbc:postgresql://*********(redacted)@host/db" in said
