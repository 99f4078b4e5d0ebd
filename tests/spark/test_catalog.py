"""The lake's tables by name, in Spark's own catalog."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from learn_spark.config.sections import LakeSettings
from learn_spark.errors import ConfigError
from learn_spark.lake.catalog import lake_at
from learn_spark.lake.catalog import register as register_tables
from learn_spark.lake.schemas import TABLES
from learn_spark.lake.tables import Tables
from learn_spark.releases.release import FEATURE_TABLES
from learn_spark.releases.views import create_current_views
from learn_spark.storage import Place
from tests.builders.commands import ROOT
from tests.builders.contexts import make_tables

pytestmark = pytest.mark.spark


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Iterator[Tables]:
    """An empty lake in a folder whose name needs escaping in SQL and URIs; its schema is dropped afterwards."""
    yield make_tables(spark, tmp_path / "my 'lake' %20")
    spark.sql("DROP SCHEMA IF EXISTS shop CASCADE")


def register(spark: SparkSession, catalog: str, root: Place) -> None:
    """Registers tables and views as a run does."""
    register_tables(spark, catalog, root)
    create_current_views(spark, catalog)


def test_names_stand_for_the_lakes_own_tables_and_change_none_of_them(spark: SparkSession, lake: Tables) -> None:
    before = lake.versions(TABLES)
    for _ in range(2):
        register(spark, "shop", lake.root)
    assert {row.tableName for row in spark.sql("SHOW TABLES IN shop").collect()} == {
        *TABLES,
        *(f"current_{table}" for table in FEATURE_TABLES),
    }
    lake.append("item_index", spark.createDataFrame([("mug", 1)], TABLES["item_index"].columns_ddl))
    assert [row.item_id for row in spark.table("shop.item_index").collect()] == ["mug"]
    assert lake.versions(TABLES) == {**before, "item_index": before["item_index"] + 1}
    assert lake_at(spark, "shop") == lake_at(spark, "spark_catalog.shop") == lake.root


def test_dropping_all_names_leaves_the_lake(spark: SparkSession, lake: Tables) -> None:
    register(spark, "shop", lake.root)
    before = lake.versions(TABLES)
    spark.sql("DROP SCHEMA shop CASCADE")
    assert lake.versions(TABLES) == before
    lake.require_own({})
    register(spark, "shop", lake.root)
    assert spark.table("shop.releases").count() == 0


def test_views_of_an_older_lake_have_its_columns(spark: SparkSession, lake: Tables, tmp_path: Path) -> None:
    statements = (ROOT / "tests" / "fixtures" / "lake_0_1_0" / "tables.sql").read_text().splitlines()
    (older,) = (each for each in statements if "/item_features`" in each)
    spark.sql(older.replace("{root}", str(tmp_path / "older")))
    Tables(spark, tmp_path / "older").create_all()
    register(spark, "shop", tmp_path / "older")
    assert "item_codes" not in spark.table("shop.current_item_features").columns
    spark.sql("DROP SCHEMA shop CASCADE")
    register(spark, "shop", lake.root)
    assert "item_codes" in spark.table("shop.current_item_features").columns


def test_a_name_of_something_else_is_refused(spark: SparkSession, lake: Tables, tmp_path: Path) -> None:
    register(spark, "shop", lake.root)
    with pytest.raises(ConfigError, match=r"shop\.\w+ is there already and lies in .*lake.*, not in .*/other/"):
        register(spark, "shop", tmp_path / "other")
    spark.sql("DROP TABLE shop.releases")
    with pytest.raises(ConfigError, match=r"lake\.catalog shop: \[TABLE_OR_VIEW_NOT_FOUND\] .*releases"):
        lake_at(spark, "shop")
    spark.sql("DROP VIEW shop.current_user_features")
    spark.sql("CREATE TABLE shop.current_user_features (mine int) USING delta")
    with pytest.raises(ConfigError, match=r"lake\.catalog shop: .*current_user_features"):
        register(spark, "shop", lake.root)
    assert spark.table("shop.current_user_features").columns == ["mine"]
    with pytest.raises(ConfigError, match=r"lake\.catalog nowhere\.shop: .*nowhere"):
        register(spark, "nowhere.shop", lake.root)


@pytest.mark.parametrize("name", ["a.b.c", "shop; DROP", "", "my-shop"])
def test_what_is_no_schemas_name_is_refused_in_the_config(name: str) -> None:
    with pytest.raises(ValueError, match="catalog"):
        LakeSettings(catalog=name)
