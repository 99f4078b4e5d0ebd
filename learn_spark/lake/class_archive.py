"""An archive of the classes that Spark and Delta load, which a JVM maps when it starts instead of reading them all.

`make setup` makes it (`scripts/class_archive.py`), beside PySpark's jars; Java calls it a dynamic CDS archive. It is
for the JVMs that this Python starts. Java refuses an archive whose class path differs from its own, or has a folder
with files in it. So PySpark's folder `conf` is left out at the start if it holds only what `make setup` wrote. A JVM of
another version, or with other jars, simply starts without the archive.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyspark

HOME = Path(pyspark.__file__).parent
FOLDER = HOME / "class_archive"
ARCHIVE, JAVA_HOME, EMPTY = FOLDER / "spark.jsa", FOLDER / "java_home", FOLDER / "conf"
OPTIONS = "spark.driver.extraJavaOptions"
LOGGING = "log4j2.properties"
_OURS = {LOGGING, "spark-env.sh"}  # in PySpark's conf


def is_usable() -> bool:
    """Whether there is an archive, and the user has no settings in a folder of the class path."""
    conf = HOME / "conf"
    is_ours = not conf.is_dir() or {file.name for file in conf.iterdir()} <= _OURS
    return ARCHIVE.is_file() and "SPARK_CONF_DIR" not in os.environ and is_ours


def with_archive(settings: Mapping[str, str], option: str = "SharedArchiveFile") -> dict[str, str]:
    """Adds the settings by which the driver's JVM maps the archive or, with another `option`, makes it."""
    logging = f"-Dlog4j2.configurationFile={(HOME / 'conf' / LOGGING).as_uri()}"
    flags = f"-XX:{option}={ARCHIVE} -Xlog:cds*=off {logging}"
    return {**settings, OPTIONS: f"{settings.get(OPTIONS, '')} {flags}".strip()}


@contextmanager
def without_conf() -> Iterator[None]:
    """Lets a JVM that starts in this block have an empty folder instead of PySpark's `conf`, and the archive's Java."""
    java = JAVA_HOME.read_text(encoding="utf-8").strip()
    with environment(SPARK_CONF_DIR=str(EMPTY), JAVA_HOME=os.environ.get("JAVA_HOME", java)):
        yield


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Sets variables of this process's environment inside the block; a JVM that starts there keeps them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
