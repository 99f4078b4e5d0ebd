"""The import rules of docs/architecture.md: which package ("room") may import what.

The torch side (`models`) and the Spark side (`learn_spark`) run as separate processes, on machines that may
lack the other's packages. Sessions and storage are accessed through one module each. New modules are checked
automatically.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPARK_SIDE = {"pyspark", "delta", "mlflow", "learn_spark"}
TORCH_SIDE = {"torch", "transformers", "sentence_transformers", "petastorm"}
CONTRACT = {"models.contract"}  # what the two sides exchange; it needs neither of them
# The packages ("rooms") of each side, lowest layer first. A module may import from its own room and from lower ones.
FLOORS = {
    "models": (
        *("contract", "layers", "metrics", "data", "encoder", "towers", "baselines", "saved", "evaluation", "export"),
        *("training", "__main__"),
    ),
    "learn_spark": (
        *(
            "errors",
            "stores",
            "storage",
            "config",
            "lake",
            "runs",
            "bridge",
            "quality",
            "ingest",
            "sequences",
            "inspect",
        ),
        *("embedding", "releases", "training", "systems", "features", "evaluation", "comparison", "forgetting"),
        *("api", "pipeline", "cli"),
    ),
}
SESSION = {"learn_spark.lake.session", "learn_spark.lake.delta_jars"}
TABLES = {"learn_spark.lake.tables", "learn_spark.bridge.snapshots"}
DELTA = TABLES | SESSION
STORES = {"fsspec", "s3fs", "botocore", "boto3", "hdfs_native", "learn_spark.stores"}
RAW_READERS = {"learn_spark.ingest"}
BUILDERS = {"getOrCreate", "SparkContext", "configure_spark_with_delta_pip"}
READERS = {"read", "readStream"}
WRITERS = {"write", "writeTo", "writeStream", "saveAsTable", "insertInto", "DeltaTable"}


def python_files(*folders: str) -> list[Path]:
    """All Python files below the folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """`learn_spark/lake/days.py` -> `learn_spark.lake.days`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def belongs(module: str, rooms: set[str]) -> bool:
    """Whether the module is one of these packages or inside one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def imported(node: ast.AST) -> list[str]:
    """The absolute module names that an import statement, or a call of import_module, names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {"import_module", "importlib.import_module"}:
        return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return []


def is_for_type_checkers(node: ast.AST) -> bool:
    """Whether the node is an `if TYPE_CHECKING:` block, which never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run when the module is imported, so none inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_for_type_checkers(child):
            continue
        yield child
        yield from run_at_import(child)


def banned_imports(nodes: Iterator[ast.AST], banned: set[str]) -> list[str]:
    """`line: name` of every import of a banned module among the nodes."""
    return [f"{node.lineno}: imports {name}" for node in nodes for name in imported(node) if belongs(name, banned)]


def broken_rules(module: str, source: str) -> list[str]:
    """`line: what` for every import rule that the module's source breaks."""
    tree = ast.parse(source)
    found = banned_imports(ast.walk(tree), {"jobs", "benchmarks"})
    if belongs(module, {"models"}):
        found += banned_imports(ast.walk(tree), SPARK_SIDE)
        if module != "models.data.stream":
            found += banned_imports(ast.walk(tree), {"petastorm"})
        return found
    found += banned_imports(run_at_import(tree), TORCH_SIDE)
    inner = (node for node in run_at_import(tree) if not all(belongs(name, CONTRACT) for name in imported(node)))
    found += banned_imports(inner, {"models"})
    if module not in {"learn_spark.storage", "learn_spark.stores"}:
        found += banned_imports(ast.walk(tree), STORES)
    if not belongs(module, DELTA):
        found += banned_imports(ast.walk(tree), {"delta"})
    chained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
        if name in {"read", "write"} and id(node) not in chained:  # file.write("x"), unlike frame.write.format(...)
            continue
        if name in BUILDERS and not belongs(module, SESSION):
            found.append(f"{node.lineno}: builds a session ({name})")
        if name in WRITERS and not belongs(module, TABLES):
            found.append(f"{node.lineno}: writes to storage ({name})")
        if name in READERS and not belongs(module, TABLES | RAW_READERS):
            found.append(f"{node.lineno}: reads from storage ({name})")
    return found


def upward_imports(module: str, source: str) -> list[str]:
    """`line: what` for every import, also inside functions, of a higher room than the module's own."""
    package, *rest = module.split(".")
    if package not in FLOORS or not rest:
        return []
    floors = FLOORS[package]
    above = {f"{package}.{room}" for room in floors[floors.index(rest[0]) + 1 :]}
    return [found for found in banned_imports(ast.walk(ast.parse(source)), above) if above]


SHIPPED = python_files("learn_spark", "models", "jobs")


@pytest.mark.parametrize("path", SHIPPED, ids=module_name)
def test_module_keeps_the_import_rules(path: Path) -> None:
    broken = broken_rules(module_name(path), path.read_text(encoding="utf-8"))
    assert not broken, f"{path.relative_to(ROOT)}: " + "; ".join(broken)


@pytest.mark.parametrize("path", SHIPPED, ids=module_name)
def test_module_imports_nothing_from_a_floor_above(path: Path) -> None:
    found = upward_imports(module_name(path), path.read_text(encoding="utf-8"))
    assert not found, f"{path.relative_to(ROOT)}: " + "; ".join(found)


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_stands_on_a_floor(package: str) -> None:
    rooms = {path.relative_to(ROOT / package).with_suffix("").parts[0] for path in python_files(package)}
    assert rooms - {"__init__"} == set(FLOORS[package])


def names_that_stand_twice(modules: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names of files and classes that occur more than once, with the modules that have them.

    Args:
        modules: path and source of each. The file names `job.py` (a stage's entry) and `__init__.py` may repeat.
    """
    found = defaultdict(list)
    for path, source in modules:
        classes = [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
        name = PurePath(path).name
        for each in [*classes, *([] if name in {"__init__.py", "job.py"} else [name])]:
            found[each].append(path)
    return {name: paths for name, paths in found.items() if len(paths) > 1}


def test_names_of_files_and_classes_stand_once() -> None:
    paths = python_files("learn_spark", "models")
    assert not names_that_stand_twice((str(path.relative_to(ROOT)), path.read_text("utf-8")) for path in paths)


def test_a_name_that_stands_twice_is_found() -> None:
    modules = [
        ("a/job.py", "class Part: ..."),
        ("b/job.py", ""),
        ("b/x.py", "def f():\n    class Part: ..."),
        ("a/x.py", ""),
    ]
    assert names_that_stand_twice(modules) == {"Part": ["a/job.py", "b/x.py"], "x.py": ["b/x.py", "a/x.py"]}


def test_an_import_of_a_floor_above_is_found() -> None:
    source = "def f():\n    from models.training.trainer import Trainer"
    assert upward_imports("models.data.stream", source) == ["2: imports models.training.trainer.Trainer"]
    assert upward_imports("models.training.train_cvr", source) == []


@pytest.mark.process
def test_the_contract_needs_neither_side() -> None:
    modules = [module_name(path) for path in python_files("models/contract")]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(SPARK_SIDE | TORCH_SIDE)}))\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_all_three_rooms_are_looked_at() -> None:
    assert {module_name(path).split(".")[0] for path in SHIPPED} == {"learn_spark", "models", "jobs"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("package", "blocked"),
    [
        pytest.param("models", SPARK_SIDE, marks=pytest.mark.long, id="models_without_spark"),
        pytest.param("learn_spark", TORCH_SIDE, id="learn_spark_without_torch"),
    ],
)
def test_package_is_importable_without_the_other_side(package: str, blocked: set[str]) -> None:
    modules = [module_name(path) for path in python_files(package) if path.stem != "__main__"]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(blocked)}))\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert modules
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("models.towers.towers", "import pyspark.sql", "imports pyspark.sql"),
        ("models.towers.towers", "def f():\n    from learn_spark.lake import days", "imports learn_spark.lake.days"),
        ("models.towers.towers", "from petastorm import make_batch_reader", "imports petastorm"),
        ("learn_spark.cli.main", "from torch import nn", "imports torch.nn"),
        ("learn_spark.cli.main", "class A:\n    import models.towers.towers", "imports models.towers.towers"),
        ("learn_spark.cli.main", "try:\n    import torch\nexcept ImportError:\n    pass", "imports torch"),
        ("learn_spark.cli.main", "from jobs import ingest_events", "imports jobs.ingest_events"),
        ("learn_spark.cli.main", "from benchmarks import logs", "imports benchmarks.logs"),
        ("learn_spark.cli.main", "import importlib\nimportlib.import_module('torch')", "imports torch"),
        ("learn_spark.ingest.x", "SparkSession.builder.getOrCreate()", "builds a session"),
        ("learn_spark.ingest.x", "frame.write.format('delta').save(path)", "writes to storage"),
        ("learn_spark.ingest.x", "from delta.tables import DeltaTable", "imports delta"),
        ("learn_spark.features.x", "spark.read.parquet(path)", "reads from storage"),
        ("jobs.x", "frame.writeTo('t').append()", "writes to storage"),
    ],
)
def test_rule_finds(module: str, source: str, complaint: str) -> None:
    assert complaint in "; ".join(broken_rules(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.data.stream", "from petastorm import make_batch_reader"),
        ("models.towers.towers", "from models.towers.losses import info_nce"),
        ("learn_spark.embedding.udf", "def on_executor():\n    import torch\n    from models import encoder"),
        ("learn_spark.cli.main", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        (
            "learn_spark.lake.session",
            "from delta import configure_spark_with_delta_pip\nSparkSession.builder",
        ),
        ("learn_spark.lake.tables", "from delta.tables import DeltaTable\nframe.write.format('delta')"),
        ("learn_spark.bridge.snapshots", "frame.write.parquet(path)"),
        ("learn_spark.ingest.readers", "spark.read.csv(path)"),
        ("learn_spark.evaluation.report", "file.write('text'); file.read()"),
        ("learn_spark.evaluation.report", "partial(tables.write, frame)"),
    ],
)
def test_rule_allows(module: str, source: str) -> None:
    assert broken_rules(module, source) == []
