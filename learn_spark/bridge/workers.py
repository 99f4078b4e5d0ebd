"""What a Python worker of Spark keeps from task to task."""

import gc
import sys
import zipimport
from pathlib import Path

from models.contract.verified import FileState, file_state


def keep_loaded() -> None:
    """Hides all objects loaded so far (a model, its libraries) from the garbage collector, which would free none.

    Spark collects garbage after each task of a Python worker; with torch and transformers loaded, that takes a quarter
    of a second. Objects that an earlier call has hidden and nothing references any more are freed first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def keep_archive_listings() -> None:
    """Makes `importlib.invalidate_caches` reread an archive's list of files only if the archive has changed.

    Spark 4.1 calls it at the start of each task. Python before 3.13 then rereads the lists of pyspark.zip, py4j.zip and
    Spark's core jar, which are on a worker's path. That takes a quarter of a second per task
    (github.com/python/cpython/issues/103200, SPARK-54744).
    """
    read_again = zipimport.zipimporter.invalidate_caches
    importers = [one for one in sys.path_importer_cache.values() if isinstance(one, zipimport.zipimporter)]
    states = {one.archive: _state(one.archive) for one in importers}

    def read_changed(self: zipimport.zipimporter) -> None:
        state = _state(self.archive)
        if states.get(self.archive) != state:
            read_again(self)
            states[self.archive] = state

    zipimport.zipimporter.invalidate_caches = read_changed


def _state(archive: str) -> FileState | None:
    try:
        return file_state(Path(archive))
    except OSError:  # the archive is gone
        return None
