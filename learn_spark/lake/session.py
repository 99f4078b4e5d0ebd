"""The one place that builds Spark sessions, and checks whether a given one can be used."""

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import psutil
import pyspark
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from learn_spark.config.load import Config
from learn_spark.config.secrets import HIDDEN, redacted, redacted_conf, redaction_pattern
from learn_spark.config.session_rules import ANSI, FIXED, TIME_ZONE, changes_rows
from learn_spark.errors import ConfigError, LearnError, TemporaryError
from learn_spark.lake import class_archive
from learn_spark.lake.delta_jars import EXTENSION, UNFIT, require_fitting, require_store_clients, with_delta
from learn_spark.lake.engine import engine_settings, require_native
from learn_spark.lake.jvm import jvm_class
from learn_spark.lake.schemas import TABLES
from learn_spark.storage import hadoop_settings
from models.contract.failures import is_disk_full

DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
_NO_JAR = ("unresolved dependency", "Local jar", "jar does not exist", "download failed")
_OTHER_CLASSES = ("NoClassDefFoundError", "NoSuchMethodError", "ClassNotFoundException", "AbstractMethodError")
_log = logging.getLogger(__name__)
_LOG_PATTERN = "%d{yy/MM/dd HH:mm:ss} %p %c{1}: %m%n%ex"
# No dictionary encoding for vectors: floats do not repeat, and trying cost 20% of the write.
_VECTOR_TYPES = {"array<float>": ".list.element", "binary": ""}
_PLAIN_VECTORS = {
    f"spark.hadoop.parquet.enable.dictionary#{column.name}{_VECTOR_TYPES[column.type]}": "false"
    for table in TABLES.values()
    for column in table.columns
    if column.type in _VECTOR_TYPES
}

_DEFAULTS = {  # what `spark.conf` and spark-submit may set otherwise
    "spark.sql.inMemoryColumnarStorage.compressed": "false",  # it took a third of ingest's time per line, to save 6%
}


def build_session(config: Config, app_name: str, log: Path | None = None) -> SparkSession:
    """Builds a session with Delta, UTC and ANSI mode; under `spark-submit`, that command's master and memory win.

    Settings of spark-defaults.conf or `--conf` that change rows have no effect.

    Args:
        config: of the run.
        app_name: what Spark's pages call the session.
        log: the file for the errors that Spark logs in this process, with their stacks, instead of the terminal; the
            first error creates it.

    Raises:
        ConfigError: Java, Delta's jars or a port is missing, or a session runs already whose settings would change
            rows; the message says which one and what to do.
        TemporaryError: the disk is full.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if config.spark.master and config.spark.master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if running := SparkSession.getActiveSession():
        require_plain(running)
    builder = SparkSession.builder.appName(f"learn-spark {app_name}")
    submitted = _submitted()
    ours = {key: value for key, value in _DEFAULTS.items() if key not in (submitted or {})}
    settings = {**ours, **engine_settings(config, submitted), **_settings(config)}
    starting = nullcontext
    if submitted is None and class_archive.is_usable():
        settings, starting = class_archive.with_archive(settings), class_archive.without_conf
    for key, value in settings.items():
        builder = builder.config(key, value)
    if not _is_submitted():
        if config.spark.master:
            builder = builder.master(config.spark.master)
        builder = with_delta(builder.config("spark.driver.memory", config.spark.driver_memory))
    try:
        with _quiet_start(), _importing_nothing_from_the_working_directory(), starting():
            _start_jvm(builder)
            _start_context(builder)
            spark = builder.getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        server: Any = spark.sparkContext._accumulatorServer
        server.handle_error = lambda *_: None  # it would print a stack if the JVM is gone
        require_fitting(spark)
        require_store_clients(spark, config.in_stores)
        _require_seen_folders(spark, config)
        require_native(spark, config)
    except ConfigError:
        raise
    except Exception as error:
        raise _explained(error) from error
    _undo(spark, [key for key in spark.conf.getAll if changes_rows(key) and key not in settings])
    if log is not None:
        _log_to(spark, log)
    return spark


def telling_case(spark: SparkSession) -> SparkSession:
    """A second session with this one's settings, except that it takes `id` and `ID` for two columns of a file."""
    beside = spark.newSession()
    ours = spark.conf.getAll
    for key, value in beside.conf.getAll.items():
        if key not in ours and beside.conf.isModifiable(key):
            beside.conf.unset(key)
        elif value != ours.get(key) and beside.conf.isModifiable(key):
            beside.conf.set(key, ours[key])
    beside.conf.set("spark.sql.caseSensitive", "true")
    return beside


def require_plain(spark: SparkSession) -> None:
    """Checks that a session which somebody else has made reads and computes as ours do.

    Raises:
        ConfigError: a setting would change rows; the message names it, and how to set it.
    """
    ours = {TIME_ZONE: FIXED[TIME_ZONE], ANSI: FIXED[ANSI]}
    for key, value in ours.items():
        if str(spark.conf.get(key, None)).lower() != value.lower():
            raise ConfigError(
                f"the running session has {key} {spark.conf.get(key, None)}, which gives other rows:"
                f' spark.conf.set("{key}", "{value}")'
            )
    known = _settings(Config())
    for key in spark.conf.getAll:
        if key.startswith("spark.sql.") and changes_rows(key) and key not in known and spark.conf.isModifiable(key):
            raise ConfigError(f'the running session sets {key}, which may give other rows: spark.conf.unset("{key}")')


def is_alive(spark: SparkSession, patience: float = 0.0) -> bool:
    """Whether the session's JVM still runs; with patience, whether it still does after that many seconds."""
    process = getattr(spark.sparkContext._gateway, "proc", None)
    if process is not None:
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            return True
        return False
    return os.getppid() == _PARENT  # under spark-submit the JVM is the parent


def is_lost_connection(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is a broken connection, such as that to a killed JVM."""
    while error is not None:
        ours = type(error).__module__.startswith("py4j") and not hasattr(error, "java_exception")
        if ours or isinstance(error, ConnectionError | EOFError):
            return True
        error = error.__cause__ or error.__context__
    return False


def said_by_jvm() -> str:
    """What the JVM, and Spark's Python workers, have written since the start."""
    if _spoken is None:
        return ""
    _spoken.seek(0)
    return redacted(_spoken.read().decode(errors="replace"))


_PARENT = os.getppid()
_spoken: IO[bytes] | None = None


def _start_jvm(builder: SparkSession.Builder) -> None:
    """Starts the JVM, if none runs, with a command line that has no secrets, since others can read it."""
    options = {key: str(value) for key, value in builder._options.items()}
    shown = redacted_conf(options)
    plain = SparkConf(loadDefaults=False)
    for key, value in options.items():
        if shown[key] == value or key.startswith("spark.driver."):  # the JVM needs these when it starts
            plain.set(key, value)
    with SparkContext._lock:
        if SparkContext._gateway is None:
            SparkContext._ensure_initialized(conf=plain)


def _start_context(builder: SparkSession.Builder) -> None:
    """Starts Spark in the JVM, if it does not run yet. Keeps the program's own handler of Ctrl-C, if it has one.

    PySpark replaces the handler by one that asks the JVM, which the same Ctrl-C may have ended; py4j then raises an
    error, and the interruption is lost.
    """
    former = signal.getsignal(signal.SIGINT)
    SparkContext.getOrCreate(SparkConf().setAll([(key, str(value)) for key, value in builder._options.items()]))
    is_own = former not in (None, signal.default_int_handler, signal.SIG_DFL)
    if is_own and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, former)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Makes processes that start in the block write to a nameless file, not to the terminal; a Ctrl-C ends them, too.

    That is also for stdout, where Delta prints a line per table about what a VACUUM deletes.
    """
    global _spoken  # noqa: PLW0603 - as the JVM, there is one per process
    if SparkContext._gateway is not None:
        yield
        return
    _spoken = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the JVM lives
    before = set(psutil.Process().children(recursive=True))
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    for number in kept:
        os.dup2(_spoken.fileno(), number)
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):  # PySpark would leave a JVM that waits for ever
            for process in set(psutil.Process().children(recursive=True)) - before:
                process.kill()
            SparkContext._gateway = SparkContext._jvm = None
        raise
    finally:
        for number, ours in kept.items():
            os.dup2(ours, number)
            os.close(ours)


def _importing_nothing_from_the_working_directory() -> AbstractContextManager[None]:
    """Sets the environment for a JVM that starts in the block, which its Python workers inherit; other children do not.

    An empty entry in PYTHONPATH is the working directory, too.
    """
    path = os.environ.get("PYTHONPATH", "")
    named = {"PYTHONPATH": os.pathsep.join(filter(None, path.split(os.pathsep)))} if path else {}
    return class_archive.environment(PYTHONSAFEPATH="1", **named)


def _undo(spark: SparkSession, foreign: list[str]) -> None:
    for key in filter(spark.conf.isModifiable, foreign):
        spark.conf.unset(key)
        _log.warning("warning: %s of spark-defaults.conf or --conf has no effect: it may change rows", key)


def _log_to(spark: SparkSession, file: Path) -> None:
    """Makes the driver's JVM, in local mode also the executors', log only to a file, without secrets."""
    log4j = "org.apache.logging.log4j"
    context = jvm_class(spark, f"{log4j}.LogManager").getContext(False)
    secrets = jvm_class(spark, "java.util.regex.Pattern").compile(redaction_pattern())
    hidden = jvm_class(spark, "java.util.regex.Matcher").quoteReplacement(HIDDEN)
    replacement = jvm_class(spark, f"{log4j}.core.pattern.RegexReplacement").createRegexReplacement(secrets, hidden)
    layout = jvm_class(spark, f"{log4j}.core.layout.PatternLayout").newBuilder().withPattern(_LOG_PATTERN)
    layout = layout.withRegexReplacement(replacement).build()
    appender = jvm_class(spark, f"{log4j}.core.appender.FileAppender").newBuilder()
    appender = appender.withFileName(str(file)).withCreateOnDemand(True)
    appender = appender.setName(str(file)).setLayout(layout).build()
    appender.start()
    root = context.getConfiguration().getRootLogger()
    for name in list(root.getAppenders()):
        root.removeAppender(name)
    root.addAppender(appender, None, None)
    context.updateLoggers()


def _is_submitted() -> bool:
    """True under `spark-submit`: the JVM is already there, so jars and memory cannot be set any more."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _submitted() -> dict[str, str] | None:
    """The settings that spark-submit was given; None without spark-submit."""
    if not _is_submitted():
        return None
    SparkContext._ensure_initialized()
    return dict(SparkConf().getAll())


def _settings(config: Config) -> dict[str, str]:
    partitions = str(config.spark.shuffle_partitions)
    return {
        "spark.sql.extensions": EXTENSION,
        "spark.sql.catalog.spark_catalog": DELTA_CATALOG,
        "spark.sql.warehouse.dir": _warehouse(config),
        **FIXED,
        "spark.sql.shuffle.partitions": partitions,
        "spark.databricks.delta.snapshotPartitions": str(min(int(partitions), 50)),
        "spark.databricks.delta.allFilesInCrc.thresholdNumFiles": "500",  # named beside each commit; see `table_reads`
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": partitions,  # tasks of a VACUUM; else 10,000
        "spark.python.sql.dataFrameDebugging.enabled": "false",  # else a stack trace for each column expression
        **_PLAIN_VECTORS,
        "spark.ui.enabled": str(config.spark.ui).lower(),
        "spark.ui.showConsoleProgress": "false",
        **hadoop_settings(config.lake.options),
        **config.spark.conf,
    }


def _require_seen_folders(spark: SparkSession, config: Config) -> None:
    """Refuses a training on executors that cannot see the driver's folders, which it reads and writes.

    Raises:
        ConfigError: the lake lies in a store, and executors on other machines are to train.
    """
    is_elsewhere = not str(spark.sparkContext.master).startswith("local")
    if is_elsewhere and not isinstance(config.lake.root, Path) and config.towers.run.launcher == "spark":
        raise ConfigError(
            "towers.run.launcher spark trains on the executors, which do not see the folders of a lake in"
            f" {config.lake.root}: set it to process or torchrun, or lake.root to a file system that all of them mount"
        )


def _warehouse(config: Config) -> str:
    """Spark's warehouse folder: it is never used, and must not appear in the working directory."""
    root = config.lake.root
    return str((root if isinstance(root, Path) else Path(tempfile.gettempdir()) / "learn_spark") / "_warehouse")


def _explained(error: Exception) -> LearnError:
    """Why Spark did not start, and the way out."""
    text = redacted(str(error))
    if isinstance(error, PySparkRuntimeError) and "JAVA_GATEWAY_EXITED" in text:
        text = said_by_jvm()
        if any(sign in text for sign in _NO_JAR):
            return ConfigError(f"Spark could not have a jar that it was told to load: {_telling(text, _NO_JAR)}")
        if not is_disk_full(text):
            return ConfigError(
                "Spark's JVM did not start: install Java 17 or 21 and set JAVA_HOME (`make setup` does both on Debian);"
                f" JAVA_HOME is {os.environ.get('JAVA_HOME', 'not set')}; {_telling(text)}"
            )
    if is_disk_full(text):
        return TemporaryError(f"no space left on device; free some under spark.local.dir: {_short(text)}")
    if any(sign in text for sign in _OTHER_CLASSES):
        return ConfigError(f"Spark {pyspark.__version__} and the Delta on its class path {UNFIT} ({_short(text)})")
    if "BindException" in text or "Address already in use" in text:
        host = socket.gethostname()
        return ConfigError(f"Spark found no free port on {host}: set spark.port.maxRetries or free one ({text[:200]})")
    return ConfigError(f"Spark did not start: {_short(text)}")


def _telling(text: str, signs: Sequence[str] = ("rror", "xception", "JAVA_HOME")) -> str:
    """The line in which a JVM said why it ended; else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if any(sign in line for sign in signs)]
    return f"it said: {_short((telling or lines)[0 if telling else -1])}" if lines else "it said nothing"


def _short(text: str) -> str:
    return " ".join(text.split())[:400]
