"""The engine that executes Spark's plans: Apache DataFusion Comet, a native engine, or Spark's own.

Both give equal rows, so the engine is not part of any fingerprint. Comet comes as one jar with libraries for Linux on
x86_64 and aarch64 (docs/decisions/0013-comet.md).
"""

import os
import platform
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError
from learn_spark.lake.jvm import jvm_class

COMET = "org.apache.datafusion:comet-spark-spark4.1_2.13:1.2.0"
ENABLED = "spark.comet.enabled"
_OFF = {ENABLED: "false"}  # Comet may be on the class path, and loaded by somebody else's settings
_JAR = "*comet-spark-spark4.1_2.13-*.jar"
_LIBRARIES = ("x86_64", "aarch64")
_CPU = Path("/proc/cpuinfo")
_SLOTS = {  # settings that Comet needs for itself
    "spark.plugins": "org.apache.spark.CometPlugin",
    "spark.shuffle.manager": "org.apache.spark.sql.comet.execution.shuffle.CometShuffleManager",
}
_HEAP_SHARE = 0.5  # memory off the heap, as a share of the heap's
_WORTH_BYTES = 64 << 20  # of interactions, about a million events; of raw files where there are none
_UNITS = {"": 20, "k": 10, "m": 20, "g": 30, "t": 40}  # a size of memory without a unit is in MiB


def engine_settings(config: Config, submitted: Mapping[str, str] | None = None) -> dict[str, str]:
    """The settings that a new session needs for `spark.engine`.

    Args:
        config: the run's.
        submitted: what spark-submit was given; None without it.

    Raises:
        ConfigError: Comet is asked for and cannot be used; the message says why, and the way out.
    """
    engine = config.spark.engine
    given = {**(submitted or {}), **config.spark.conf}
    why = None if engine == "spark" else _lacking(given, config.spark.master, is_submitted=submitted is not None)
    if engine != "spark" and config.in_stores:
        why = f"{config.in_stores[0]} lies in a store, which its own readers were not tried with"
    if engine == "comet" and why:
        raise ConfigError(f"spark.engine is comet, and {why}; spark.engine auto or spark does without Comet")
    if engine == "spark" or why:
        return _OFF
    is_for_executors = _is_local(given, config) or _is_sent(given)
    if engine == "auto" and not (is_for_executors and is_worth_it(config)):
        return _OFF
    heap = given.get("spark.executor.memory", config.spark.driver_memory)
    return {
        **_SLOTS,
        ENABLED: "true",
        "spark.comet.exec.pyarrowUDF.enabled": "true",  # Arrow from its shuffle to Python, without rows between
        "spark.memory.offHeap.enabled": "true",
        "spark.memory.offHeap.size": given.get("spark.memory.offHeap.size", f"{int(_mib(heap) * _HEAP_SHARE)}m"),
    }


def is_native(spark: SparkSession) -> bool:
    """Whether Comet works in a session."""
    is_loaded = _SLOTS["spark.plugins"] in str(spark.conf.get("spark.plugins", ""))
    return is_loaded and str(spark.conf.get(ENABLED, "false")).lower() == "true"


def require_native(spark: SparkSession, config: Config) -> None:
    """Checks that Comet's library can be loaded, which needs 150 MB for temporary files.

    Raises:
        ConfigError: it cannot, and Comet was asked for. With `auto` the session goes on without Comet.
    """
    if not is_native(spark):
        return
    try:
        jvm_class(spark, "org.apache.comet.NativeBase").isLoaded()
    except Exception as error:
        if config.spark.engine == "comet":
            cause = " ".join(str(error).split())[:300]
            raise ConfigError(f"spark.engine is comet, and its library cannot be loaded: {cause}") from error
        spark.conf.set(ENABLED, "false")


def misfit() -> str | None:
    """Why Comet's jar does not fit this Spark or this machine; None if it does."""
    if not pyspark.__version__.startswith("4.1."):
        return f"its jar is for Spark 4.1, while this is Spark {pyspark.__version__}"
    if platform.system() != "Linux" or platform.machine() not in _LIBRARIES:
        known = " and ".join(_LIBRARIES)
        return f"it has no library for {platform.system()} on {platform.machine()}, but for Linux on {known}"
    if platform.machine() == "x86_64" and " avx2 " not in _CPU.read_text(encoding="utf-8"):
        return "its library needs a processor with AVX2"
    return None


def is_worth_it(config: Config) -> bool:
    """Whether the lake's events, or the raw files if there are none yet, are so large that Comet pays off."""
    table, size = config.lake.root / "interactions", 0
    folders = {table} if table.is_dir() else {source.path for source in config.ingest.each()}
    for size_of_file in chain.from_iterable(_sizes(folder) for folder in folders if isinstance(folder, Path)):
        size += size_of_file
        if size >= _WORTH_BYTES:
            return True
    return False


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield (Path(place) / name).stat().st_size
            except OSError:  # gone in between
                continue


def _lacking(given: Mapping[str, str], master: str | None, is_submitted: bool) -> str | None:
    """Why Comet cannot be used; None if it can."""
    if why := misfit():
        return why
    for key, ours in _SLOTS.items():
        if key in given and given[key] != ours:
            return f"{key} is {given[key]} already, where it needs {ours}"
    if not _is_sent(given) and not any(_own_jars(is_submitted).glob(_JAR)):
        return f"its jar is not on Spark's class path: run `make setup`, or give spark-submit --packages {COMET}"
    return None


def _own_jars(is_submitted: bool) -> Path:
    """Spark's folder of jars; under spark-submit that of the submitting Spark, which need not be this Python's."""
    home = os.environ.get("SPARK_HOME") if is_submitted else None
    return Path(home or Path(pyspark.__file__).parent) / "jars"


def _is_sent(given: Mapping[str, str]) -> bool:
    """Whether Spark brings the jar to driver and executors."""
    keys = ("spark.jars", "spark.jars.packages", "spark.executor.extraClassPath")
    return any("comet-spark-spark4.1_2.13" in given.get(key, "") for key in keys)


def _is_local(given: Mapping[str, str], config: Config) -> bool:
    master = given.get("spark.master") or config.spark.master or ""
    return bool(re.fullmatch(r"local(\[.*\])?", master))


def _mib(size: str) -> int:
    """`3g` -> 3072."""
    found = re.fullmatch(r"(\d+)([kmgt]?)b?", size.strip().lower())
    if not found:
        raise ConfigError(f"{size!r} is no size of memory (spark.driver_memory or spark.executor.memory): write 3g")
    return (int(found[1]) << _UNITS[found[2]]) >> 20
