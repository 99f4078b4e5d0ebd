"""Puts the jars of the installed Delta into PySpark's own folder, so that no command has to resolve them again.

Spark's own Ivy client fetches them, from wherever it is told to look. What PySpark has itself stays as it is.
"""

import re
import shutil
from pathlib import Path

import pyspark
from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

JARS = Path(pyspark.__file__).parent / "jars"
FETCHED = JARS / "fetched.txt"


def main() -> None:
    """Takes away what was fetched for another Delta, and copies what PySpark lacks."""
    if FETCHED.is_file():
        for name in FETCHED.read_text(encoding="utf-8").split():
            (JARS / name).unlink(missing_ok=True)
    own = {_artifact(jar.name) for jar in JARS.glob("*.jar")}
    lacking = [jar for jar in _resolved() if _artifact(jar.name.split("_", 1)[1]) not in own]
    FETCHED.write_text("".join(f"{jar.name}\n" for jar in lacking), encoding="utf-8")
    for jar in lacking:
        shutil.copy(jar, JARS)


def _resolved() -> list[Path]:
    """The jars in Ivy's cache, named group_artifact-version.jar."""
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = configure_spark_with_delta_pip(builder).getOrCreate()
    jars = spark.sparkContext.getConf().get("spark.jars") or ""
    spark.stop()
    return [Path(jar.removeprefix("file:")) for jar in jars.split(",")]


def _artifact(jar: str) -> str:
    """`slf4j-api-2.0.17.jar` -> `slf4j-api`."""
    return re.sub(r"-\d[^-]*\.jar$", "", jar)


if __name__ == "__main__":
    main()
