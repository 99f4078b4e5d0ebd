"""Preloads libraries in the process from which Spark forks its Python workers, which end after each error and each idle
minute and would load them again. It is on the path of the tests' session; other processes load nothing here."""

import sys

if "pyspark.daemon" in sys.orig_argv:
    import gc

    import pandas  # noqa: F401
    import pyarrow  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoModel, AutoTokenizer, PreTrainedModel  # noqa: F401 - its modules load by name

    from learn_spark.bridge.workers import keep_archive_listings

    keep_archive_listings()
    gc.freeze()
