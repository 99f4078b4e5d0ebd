"""Secrets of a config: what counts as one, where a text holds it, and what is shown instead."""

import logging
from pathlib import Path

import pytest

from learn_spark.cli.main import main
from learn_spark.config.load import load_config
from learn_spark.config.secrets import HIDDEN, redacted
from learn_spark.errors import ConfigError
from models.contract.settings import identity

CONF = Path(__file__).parents[2] / "conf"
KEY, PASSWORD, TOKEN, OWN = "wJalrXUtnFEMI/K7MDENG+bPx", "p4ss-w0rd!", "dapi0123456789", "salt-of-the-shop"
CONFIG = f"""
extends: {CONF / "test.yaml"}
spark:
  conf:
    spark.hadoop.fs.s3a.secret.key: {KEY}
    spark.hadoop.fs.s3a.endpoint: http://minio:9000
    spark.hadoop.shop.salt: {OWN}
    spark.redaction.regex: "(?i)secret|salt"
    spark.driver.extraJavaOptions: -Xmx1g -Djavax.net.ssl.trustStorePassword=changeit99
mlflow: {{tracking_uri: "https://joe:${{MLFLOW_PASSWORD}}@host/mlflow?token={TOKEN}&x=1"}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_PASSWORD", PASSWORD)
    (tmp_path / "own.yaml").write_text(CONFIG)
    return tmp_path / "own.yaml"


def test_the_configs_text_has_the_names_and_no_secret(config: Path) -> None:
    loaded = load_config(config)
    assert loaded.mlflow.tracking_uri == f"https://joe:{PASSWORD}@host/mlflow?token={TOKEN}&x=1"
    text = loaded.as_text()
    for secret in (KEY, PASSWORD, TOKEN, OWN, "changeit99"):
        assert secret not in text
    assert "${MLFLOW_PASSWORD}" in text or HIDDEN in text
    assert "http://minio:9000" in text and f"spark.hadoop.fs.s3a.secret.key: '{HIDDEN}'" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"cannot log in with {PASSWORD}.", "cannot log in with ${MLFLOW_PASSWORD}."),
        (f"403 for {KEY}", f"403 for {HIDDEN}"),
        ("the key wJalrXUtnFEMI%2FK7MDENG%2BbPx", f"the key {HIDDEN}"),
        (f"salted with {OWN}", f"salted with {HIDDEN}"),
        ("changeit99 does not open it", f"{HIDDEN} does not open it"),
        ("API request to http://ann:s3cret@host/api failed", f"API request to http://{HIDDEN}@host/api failed"),
        ("postgresql://ann:@host", f"postgresql://{HIDDEN}@host"),
        ("https://ghp_abc@github.com/x", f"https://{HIDDEN}@github.com/x"),
        ("s3://b/k?X-Amz-Signature=abc&y=2", f"s3://b/k?X-Amz-Signature={HIDDEN}&y=2"),
        ("abfss://container@account.dfs.core.windows.net/x", "abfss://container@account.dfs.core.windows.net/x"),
        ("embedding.max_tokens: 64, 12:30, a@b.c", "embedding.max_tokens: 64, 12:30, a@b.c"),
    ],
)
def test_a_text_shows_no_secret(config: Path, text: str, shown: str) -> None:
    load_config(config)
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "override",
    [
        "spark.conf={spark.hadoop.fs.s3a.secret.key: 987654321987}",
        "spark.conf=[spark.hadoop.fs.s3a.secret.key, 987654321987]",
        "spark.driver_memory={password: 987654321987}",
        "mlflow.tracking_uri=[http://joe:987654321987@host]",
        'spark.conf={spark.secret: "987654321987}',
    ],
)
def test_a_wrong_value_is_not_repeated_where_it_may_be_a_secret(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(CONF / "test.yaml", [override])
    assert "987654321987" not in str(caught.value)


def test_a_reference_is_the_value_and_its_name_is_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("SEED", "11")
    config = load_config(CONF / "test.yaml", ["lake.root=${SHOP_LAKE}", "towers.train.seed=${SEED}"])
    assert (config.lake.root, config.towers.train.seed) == (tmp_path / "lake", 11)
    assert "root: ${SHOP_LAKE}" in config.as_text() and "seed: ${SEED}" in config.as_text()
    assert redacted(f"{tmp_path}/lake has 11 rows") == f"{tmp_path}/lake has 11 rows", "a path and a number are said"


def test_the_name_is_in_no_fingerprint_and_the_value_of_what_changes_rows_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "11")
    one = load_config(CONF / "test.yaml", ["towers.train.seed=${SEED}"])
    assert identity(one.towers) == identity(load_config(CONF / "test.yaml", ["towers.train.seed=11"]).towers)


def test_spark_s_own_references_stay() -> None:
    options = "spark.conf={spark.driver.extraJavaOptions: '-Dx=${sys:user.home} ${spark.app.id}'}"
    conf = load_config(CONF / "test.yaml", [options]).spark.conf
    assert conf["spark.driver.extraJavaOptions"] == "-Dx=${sys:user.home} ${spark.app.id}"


def test_a_redaction_that_is_no_pattern_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"spark\.redaction\.regex` is no regular expression"):
        load_config(CONF / "test.yaml", ["spark.conf={spark.redaction.regex: '('}"])


def test_what_is_logged_or_typed_wrongly_shows_no_secret(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["--config", str(config), "--set", f"lake.root={tmp_path}/lake", "--dry-run"]
    with pytest.raises(SystemExit):
        main(["run_pipeline", *given, "--sett", f"mlflow.tracking_uri=http://joe:{PASSWORD}@host"])
    assert PASSWORD not in capsys.readouterr().err
    assert main(["run_pipeline", *given, "--steps", PASSWORD, "--json-out", str(tmp_path / "out.json")]) == 2
    assert "--steps names ${MLFLOW_PASSWORD}; there are" in capsys.readouterr().err
    assert PASSWORD not in (tmp_path / "out.json").read_text()
    assert logging.getLogger("learn_spark").handlers == []
