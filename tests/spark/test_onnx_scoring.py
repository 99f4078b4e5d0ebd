"""Features by ONNX Runtime: equal to torch's, and by workers whose Python has no torch."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from learn_spark.bridge.programs import PROGRAMS, cvr_to_score, towers_to_score
from learn_spark.bridge.trained import towers_path
from learn_spark.embedding.matrix import matrix_path
from learn_spark.features.job import write_features
from learn_spark.pipeline import feature_days
from models.contract.verified import file_digest
from tests.builders.commands import ROOT
from tests.builders.lake import feature_lake

pytestmark = [pytest.mark.spark, pytest.mark.long]
pytest.importorskip("onnxruntime", reason="needs the extra `online`: onnx, onnxscript, onnxruntime")
SETTINGS = [
    *("windows.towers_end=2011-11-21", "windows.cvr_end=2011-11-22"),
    *("windows.ranker_train_end=2011-11-23", "windows.end=2011-11-25"),
    *("sequences.history_events=[purchase, cancel, adjust]", "sequences.keep_event_types=true"),
]
VECTORS = {"user_features": "user_emb", "item_features": "item_emb", "pair_features": "mid_emb"}
# What a worker that scores imports, beside Spark's own Python and the standard library.
PACKAGES = """numpy numpy.libs pandas pyarrow dateutil six.py pytz tzdata pydantic pydantic_core annotated_types
 typing_extensions.py typing_inspection yaml fsspec onnxruntime google flatbuffers"""


@pytest.fixture(scope="module")
def lakes(spark, tmp_path_factory):
    """The same lake and models twice, scored by torch and by ONNX Runtime."""
    found = []
    for runtime in ("torch", "onnx"):
        context = feature_lake(spark, tmp_path_factory.mktemp(runtime), [*SETTINGS, f"features.run.runtime={runtime}"])
        write_features(context, feature_days(context.config))
        found.append(context)
    return found


def test_all_vectors_and_scores_are_those_of_torch(lakes):
    for table, vector in VECTORS.items():
        rows = [
            {tuple(row[name] for name in ("user_id", "item_id", "event_ts", "ds") if name in row): row for row in found}
            for found in (context.tables.read(table).collect() for context in lakes)
        ]
        assert rows[0].keys() == rows[1].keys() and len(rows[0]) > 5
        for key, row in rows[0].items():
            np.testing.assert_allclose(rows[1][key][vector], row[vector], atol=1e-5, err_msg=f"{table} {key}")
        others = [name for name in ("content_coverage", "is_cold", "cvr_score") if name in rows[0][key]]
        for name in others:
            np.testing.assert_allclose(*([row[name] for row in found.values()] for found in rows), atol=1e-5)


def test_programs_are_exported_once_and_again_where_they_are_damaged(lakes):
    torch_lake, lake = lakes
    assert towers_to_score(torch_lake) == towers_path(torch_lake)
    assert not torch_lake.tables.artifacts.path(PROGRAMS).exists()
    folders = towers_to_score(lake), cvr_to_score(lake)
    programs = [file for folder in folders for file in folder.glob("*.onnx")]
    before = [(file_digest(file), file.stat().st_mtime_ns) for file in programs]
    assert len(programs) == 3 and (towers_to_score(lake), cvr_to_score(lake)) == folders
    assert [(file_digest(file), file.stat().st_mtime_ns) for file in programs] == before
    (cvr,) = folders[1].glob("*.onnx")
    cvr.write_bytes(cvr.read_bytes()[:-1] + b"?")
    assert cvr_to_score(lake) == folders[1]
    assert json.loads((folders[1] / "result.json").read_text())["programs"]["cvr"]["sha256"] == {
        cvr.name: file_digest(cvr)
    }


SCORE = """
import importlib.util, json, sys
from pathlib import Path
from learn_spark.bridge.scoring import score_users
from learn_spark.config.load import load_config
from learn_spark.lake.session import build_session

towers, matrix, lake = map(Path, sys.argv[2:5])
spark = build_session(load_config(sys.argv[1]), "slim")
asked = spark.sparkContext.parallelize([0], 1)
print(*asked.map(lambda _: (sys.executable, importlib.util.find_spec("torch") is None)).first())
histories = spark.read.format("delta").load(str(lake / "user_history")).where(f"ds = '{sys.argv[5]}'")
rows = score_users(histories, towers, matrix, 64, ["purchase", "cancel", "adjust"]).frame.collect()
print(json.dumps({row.user_id: row.user_emb for row in rows}))
"""


def test_workers_without_torch_score(lakes, tmp_path):
    lake, day = lakes[1], lakes[1].config.windows.towers_end
    python = slim(tmp_path / "slim")
    env = os.environ | {"PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    arguments = [ROOT / "conf/test.yaml", towers_to_score(lake), matrix_path(lake), lake.tables.root, day]
    done = subprocess.run(
        [sys.executable, "-c", SCORE, *map(str, arguments)], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    where, found = done.stdout.splitlines()[-2:]
    assert where == f"{python} True"
    expected = {row.user_id: row.user_emb for row in lake.tables.read("user_features").where(f"ds = '{day}'").collect()}
    scored = json.loads(found)
    assert scored.keys() >= expected.keys() and len(expected) > 3
    for user, vector in expected.items():
        np.testing.assert_allclose(scored[user], vector, atol=1e-6)


def slim(folder: Path) -> Path:
    """A Python that has what scoring needs and nothing else: links to packages of this one."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in PACKAGES.split():
        place = Path(np.__file__).parents[1] / name
        if place.exists():
            (site / name).symlink_to(place)
    return folder / "bin" / "python"
