"""On the path of the tests' session: the process that Spark forks its Python workers from loads once what all of them
would, as they end with each error and each idle minute; nothing else that starts with this path loads anything."""

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
