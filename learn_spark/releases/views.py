"""Views in a catalog that show the current release, whatever is published or withdrawn after they were made."""

from pyspark.sql import SparkSession

from learn_spark.lake.catalog import told
from learn_spark.lake.schemas import RELEASES
from learn_spark.releases.registry import CURRENT, PUBLISHED
from learn_spark.releases.release import FEATURE_TABLES

_KEYS = {"user_features": "user_id", "item_features": "item_id"}  # a row per change of a key's features


def create_current_views(spark: SparkSession, catalog: str) -> None:
    """Makes `current_user_features`, `current_item_features` and `current_pair_features`; `until` as in `create_views`.

    Args:
        spark: a session on the catalog.
        catalog: a schema with the tables of a lake, as `catalog.register` leaves it.

    Raises:
        ConfigError: a name stands for something else, or the catalog refuses.
    """
    with told(f"lake.catalog {catalog}"):
        for table in FEATURE_TABLES:
            columns = spark.table(f"{catalog}.{table}").columns  # an older lake has fewer until its next release
            if key := _KEYS.get(table):
                following = f"lead(ds) OVER (PARTITION BY {key} ORDER BY ds)"
                columns.append(f"coalesce({following}, DATE'9999-12-31') AS until")
            shown = f"SELECT {', '.join(columns)} FROM {catalog}.{table} LEFT SEMI JOIN ({_parts(catalog)})"
            spark.sql(f"CREATE OR REPLACE VIEW {catalog}.{CURRENT}_{table} AS {shown} USING (ds, release_id)")


def _parts(catalog: str) -> str:
    """The days of the current release, each with the id under which its rows lie."""
    newest = (
        f"SELECT parts FROM {catalog}.{RELEASES.name} WHERE status = '{PUBLISHED}' ORDER BY published_at DESC LIMIT 1"
    )
    return f"SELECT part.ds AS ds, part.release_id AS release_id FROM ({newest}) LATERAL VIEW explode(parts) AS part"
