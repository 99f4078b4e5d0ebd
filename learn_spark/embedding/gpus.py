"""Stage-level scheduling: which share of a GPU Spark gives to a task that encodes."""

from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import SparkSession

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError

EXECUTOR_GPUS = "spark.executor.resource.gpu.amount"
TASK_GPUS = "spark.task.resource.gpu.amount"


def encoding_profile(spark: SparkSession, config: Config) -> ResourceProfile | None:
    """The resources that a task that encodes needs beyond other tasks; None if it needs none.

    `embedding.run.gpu_per_task: auto` is a whole GPU if the executors have GPUs, Spark's settings name no share per
    task, and the device is not cpu.

    Raises:
        ConfigError: a share of a GPU is asked for, and the executors have no GPUs.
    """
    asked, settings = config.embedding.run.gpu_per_task, spark.sparkContext.getConf()
    has_gpus = float(settings.get(EXECUTOR_GPUS, "0")) > 0
    if asked == "auto":
        asked = 1.0 if has_gpus and not settings.contains(TASK_GPUS) and config.embedding.run.device != "cpu" else 0.0
    if not asked:
        return None
    if not has_gpus:
        raise ConfigError(
            f"embedding.run.gpu_per_task is {asked:g}, but the executors have no GPUs: set {EXECUTOR_GPUS}"
            f" on a cluster, or embedding.run.gpu_per_task to 0 (spark.master is {spark.sparkContext.master})"
        )
    return ResourceProfileBuilder().require(TaskResourceRequests().resource("gpu", asked)).build
