"""Hadoop's own NameNode and DataNode on loopback, in a separate JVM, in the version that Spark uses."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

from learn_spark.storage import Location

JARS = Path(pyspark.__file__).parent / "jars"
_HADOOP = next(JARS.glob("hadoop-client-api-*.jar")).stem.removeprefix("hadoop-client-api-")
_PACKAGE = f"org.apache.hadoop:hadoop-client-minicluster:{_HADOOP}"
_OF_SPARK = "org.apache.hadoop:hadoop-client-api,org.apache.hadoop:hadoop-client-runtime"
_QUICK = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
# Excludes the jars that Spark already has, because two versions of a class conflict.
_FETCH = f"""
from pyspark.sql import SparkSession
builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
builder = builder.config("spark.jars.packages", "{_PACKAGE}")
builder = builder.config("spark.jars.excludes", "{_OF_SPARK}")
print("jars", builder.getOrCreate().conf.get("spark.jars"))
"""


@pytest.fixture(scope="module")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    """The root of an empty file system that belongs to this user."""
    jars = {"classpath": f"{_minicluster()}:{JARS}/*", "jarpath": str(next(JARS.glob("py4j-*.jar")))}
    port = launch_gateway(javaopts=_QUICK, die_on_exit=True, **jars)
    gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))
    hadoop = gateway.jvm.org.apache.hadoop
    conf = hadoop.hdfs.HdfsConfiguration()
    conf.set("hdfs.minidfs.basedir", str(tmp_path_factory.mktemp("hdfs")))
    cluster = getattr(hadoop.hdfs, "MiniDFSCluster$Builder")(conf).numDataNodes(1).build()
    try:
        cluster.waitActive()
        yield Location(f"hdfs://127.0.0.1:{cluster.getNameNodePort()}")
    finally:
        cluster.shutdown()
        gateway.shutdown()


@pytest.fixture
def hdfs_folder(hdfs: Location) -> Location:
    """The location of a new folder."""
    return hdfs / f"folder-{uuid.uuid4().hex[:12]}"


def _minicluster() -> Path:
    """Hadoop's jar for tests (40 MB) in Ivy's cache, where Ivy fetches it once."""
    name = f"org.apache.hadoop_hadoop-client-minicluster-{_HADOOP}.jar"
    known = next(Path.home().glob(f".ivy2*/jars/{name}"), None)
    if known is not None:
        return known
    told = subprocess.run([sys.executable, "-c", _FETCH], capture_output=True, text=True, check=False).stdout
    jars = [line.split()[1].split(",") for line in told.splitlines() if line.startswith("jars ")]
    found = [jar.removeprefix("file://") for jar in (jars[0] if jars else []) if jar.endswith(name)]
    if not found:
        pytest.skip(f"{_PACKAGE} cannot be had here")
    return Path(found[0])
