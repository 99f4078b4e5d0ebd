"""Catalogues with one property per line."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.config.ingest import ItemsSettings
from learn_spark.ingest.csv_lines import CORRUPT
from learn_spark.ingest.fields import mapped, mapped_time, quoted
from learn_spark.ingest.readers import BAD_BYTES


def pivoted(lines: DataFrame, settings: ItemsSettings) -> DataFrame:
    """A row per item with the last value of each property that the mapping names; other properties are left out.

    Lines that cannot be read, or name no item, stay as they are. Of values of the same time, or without a time, the
    greatest counts.
    """
    pivot = settings.pivot
    if pivot is None:
        return lines
    item = settings.mapping.item_id
    of_item = set(item.columns())
    names = [name for name in settings.mapping.source_columns() if name not in of_item]
    is_bad = F.col(CORRUPT).isNotNull() | F.col(BAD_BYTES) | mapped(item).isNull()
    time = mapped_time(pivot.time, settings.is_typed) if pivot.time else F.lit(None).cast("timestamp")
    last = F.struct(time.alias("time"), quoted(pivot.value).alias("value"))
    values = [F.max(F.when(F.trim(quoted(pivot.name)) == name, last)).getField("value").alias(name) for name in names]
    asked = F.trim(quoted(pivot.name)).isin(names)
    own = [each for each in lines.columns if each not in {*settings.source_columns(), "load_day"}]
    good = lines.where(~is_bad & asked).groupBy(*of_item, "load_day")
    good = good.agg(*values, *(F.min(each).alias(each) for each in own))
    bad = lines.where(is_bad).select(*map(quoted, of_item), *own, "load_day")
    return good.unionByName(bad, allowMissingColumns=True)
