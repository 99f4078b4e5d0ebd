"""Puts the jars of the installed Delta, of Hadoop's S3 client and of Comet into PySpark's own folder.

So no command has to resolve them again. Spark's own Ivy client fetches them, from wherever it is told to look. What
PySpark has itself stays as it is. The client and what it needs are 12 MB; where it cannot be had, lakes and logs lie on
file systems. Comet's is one jar of 99 MB for Spark 4.1 on Linux; where it cannot be had, all runs on plain Spark.
"""

import re
import shutil
from contextlib import suppress
from pathlib import Path

import pyspark
from delta import configure_spark_with_delta_pip
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from learn_spark.lake.delta_jars import STORE_EXCLUDES, store_packages
from learn_spark.lake.engine import COMET, misfit

JARS = Path(pyspark.__file__).parent / "jars"
FETCHED = JARS / "fetched.txt"


def main() -> None:
    """Takes away what was fetched for another Delta, and copies what PySpark lacks."""
    if FETCHED.is_file():
        for name in FETCHED.read_text(encoding="utf-8").split():
            (JARS / name).unlink(missing_ok=True)
    own = {_artifact(jar.name) for jar in JARS.glob("*.jar")}
    lacking = [jar for jar in _fetched() if _artifact(jar.name.split("_", 1)[1]) not in own]
    FETCHED.write_text("".join(f"{jar.name}\n" for jar in lacking), encoding="utf-8")
    for jar in lacking:
        shutil.copy(jar, JARS)


def _fetched() -> list[Path]:
    """With the store's client, and with Comet's where it fits this machine, if they can be had."""
    hadoop = next(JARS.glob("hadoop-client-api-*.jar")).stem.removeprefix("hadoop-client-api-")
    client, comet = store_packages(hadoop), [] if misfit() else [COMET]
    for more in ([*client, *comet], client, comet):
        with suppress(PySparkRuntimeError):  # Ivy has said why on stderr
            return _resolved(more)
    return _resolved([])


def _resolved(more: list[str]) -> list[Path]:
    """The jars in Ivy's cache, named group_artifact-version.jar."""
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.jars.excludes", ",".join(STORE_EXCLUDES))
    spark = configure_spark_with_delta_pip(builder, more).getOrCreate()
    jars = spark.sparkContext.getConf().get("spark.jars") or ""
    spark.stop()
    return [Path(jar.removeprefix("file:")) for jar in jars.split(",")]


def _artifact(jar: str) -> str:
    """`slf4j-api-2.0.17.jar` -> `slf4j-api`."""
    return re.sub(r"-\d[^-]*\.jar$", "", jar)


if __name__ == "__main__":
    main()
