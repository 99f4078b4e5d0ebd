"""Which settings of Spark a user may change: those that change speed, and none that changes rows.

No fingerprint holds `spark.conf`, and no table says under which session it was written. So whatever can change a row is
the same everywhere: Spark's default, or what `FIXED` has. Of Spark's SQL settings those are allowed that are known to
change speed or logs; a new one of Spark's is refused until somebody has looked at it.
"""

import re

TIME_ZONE, ANSI = "spark.sql.session.timeZone", "spark.sql.ansi.enabled"
FIXED = {
    TIME_ZONE: "UTC",
    ANSI: "true",
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # pandas writes them; ingest makes times of them
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.executorEnv.PYTHONSAFEPATH": "1",  # a folder `models` in the working directory must not stand in for ours
}
_ELSEWHERE = {
    "spark.sql.shuffle.partitions": "spark.shuffle_partitions",
    "spark.driver.memory": "spark.driver_memory",
    "spark.master": "spark.master",
    "spark.ui.enabled": "spark.ui",
    "spark.comet.enabled": "spark.engine",
}
_OURS = ("spark.ui.showConsoleProgress", "spark.python.sql.dataFrameDebugging.enabled")
_ROWS = re.compile(
    r"spark\.sql\..+|spark\.databricks\.delta\..+|spark\.files\.ignore(Corrupt|Missing)Files"
    r"|spark\.hadoop\.parquet\.(strings\.|enable\.dictionary).*|spark\.comet\..+"
)
# Delta sets parquet.fieldId.* and lastCommitVersionInSession itself.
_SPEED = re.compile(
    r"spark\.sql\.("
    r"adaptive|artifact|broadcastExchange|bucketing|cartesianProductExec|catalogImplementation|cbo|codegen|columnVector"
    r"|debug|event|exchange|hive|inMemory\w+|join|limit|maven|objectHashAggregate|planChangeLog|planner|queryExecution\w+"
    r"|redaction|repl|resultQueryStage|sessionWindow|shuffleDependency|shuffleExchange|sort|sortMergeJoinExec|statistics"
    r"|streaming|subexpressionElimination|subquery|thriftServer|ui|windowExec)(\..+)?"
    r"|spark\.sql\.catalog\.(?!spark_catalog\b).+"
    r"|spark\.sql\.(autoBroadcastJoinThreshold|broadcastTimeout|defaultSizeInBytes|filesourceTableRelationCacheSize"
    r"|leafNodeDefaultParallelism|max\w+|metadataCacheTTLSeconds|shuffledHashJoinFactor)"
    r"|spark\.sql\.execution\.(arrow\.(max|localRelation)\w+|(pyspark|python|pandas)\.udf\..+|rangeExchange\..+"
    r"|replaceHashWithSortAgg|reuseSubquery|topKSortFallbackThreshold|useObjectHashAggregateExec)"
    r"|spark\.sql\.files\.(maxPartition\w+|minPartitionNum|openCostInBytes|maxRecordsPerFile)"
    r"|spark\.sql\.optimizer\.(runtime|runtimeFilter|dynamicPartitionPruning|inSet\w+|windowGroupLimit\w+)(\..+)?"
    r"|spark\.sql\.parquet\.(aggregatePushdown|columnarReaderBatchSize|compression\.codec|enable\w*VectorizedReader"
    r"|fieldId\..+|filterPushdown(\.\w+)*|output\.committer\.class|pushdown\.inFilterThreshold|recordLevelFilter\.enabled)"
    r"|spark\.sql\.sources\.(parallelPartitionDiscovery\.threshold|ignoreDataLocality|fileCompressionFactor"
    r"|useListFilesFileSystemList|commitProtocolClass|outputCommitterClass)"
    r"|spark\.databricks\.delta\.(optimize|optimizeWrite|autoCompact|checkpoint|lastCommitVersionInSession"
    r"|merge\.repartition\w+|snapshotCache|stalenessLimit|stats|vacuum\.parallelDelete)(\..+)?"
    r"|spark\.comet\.(batchSize|exec\.memoryPool|explain|maxTempDirectorySize|memory|metrics|shuffle|tracing)(\..+)?"
)


def changes_rows(key: str) -> bool:
    """Whether a setting of Spark may change what is read, computed or written."""
    return bool(_ROWS.fullmatch(key)) and not _SPEED.fullmatch(key)


def refusal(key: str) -> str | None:
    """Why `spark.conf` may not hold a setting, and the way out; None where it may."""
    if key in _ELSEWHERE:
        return f"conf sets {key}: set {_ELSEWHERE[key]} instead"
    if key in FIXED:
        return f"conf sets {key}, which is always {FIXED[key]}, since another value gives other rows: leave it out"
    if key in _OURS:
        return f"conf sets {key}, which learn-spark sets itself: leave it out"
    if changes_rows(key):
        return (
            f"conf sets {key}, which may change rows without changing a fingerprint: leave it out;"
            " what changes speed alone is allowed, as spark.sql.adaptive.*"
        )
    return None
