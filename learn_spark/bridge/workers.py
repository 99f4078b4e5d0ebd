"""What a Python worker of Spark keeps from task to task."""

import gc


def keep_loaded() -> None:
    """Hides what is loaded by now, a model and its libraries, from the garbage collector, which frees none of it.

    Spark collects garbage after each task of a worker: past torch and transformers that takes a quarter of a second.
    What an earlier call has hidden and nobody holds any more goes first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
