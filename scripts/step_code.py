"""Holds the code of every step against what is recorded of it in scripts/step_code.json.

A day's fingerprint holds its step's version, not its code. So whoever changes code says what that means for rows:
raise `version=` of the step in learn_spark/pipeline.py, or say that rows do not change. Both are recorded by
`make rows-unchanged NOTE="why"`, which rewrites the file.

Followed are names: from the step's function through all functions, classes and constants that it names, also in other
modules. What is reached through an instance alone (a property of the config) is not seen, so `TABLES_DOOR` is named
here. Docstrings, comments, hints, messages and formatting do not count; a definition that moves does.
"""

import argparse
import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "scripts" / "step_code.json"
PACKAGES = ("learn_spark", "models")
ALWAYS = "<always>"

# Every step writes tables through this class, but no step names it.
TABLES_DOOR = "learn_spark.lake.tables.Tables"
# The commands of `python -m models` that a step runs. Steps start them as processes, so no import leads to their code.
COMMANDS_RUN = {
    "train_towers": ("train-towers",),
    "train_cvr": ("train-cvr",),
    "evaluate_features": ("evaluate-systems", "evaluate-ranker"),
}
_SNAPSHOT = "learn_spark.training.sequence_snapshots.sequence_snapshot"
_TEXTS = "learn_spark.systems.language_systems.item_texts"
# Functions of the Spark side that make the inputs of the comparison's commands.
COMPARISON_INPUTS = {
    "train-towers": (_SNAPSHOT,),
    "train-sequential": (_SNAPSHOT,),
    "train-als": (_SNAPSHOT,),
    "train-notellm": (_SNAPSHOT, _TEXTS),
    "train-prompts": (_SNAPSHOT, _TEXTS),
    "evaluate-systems": (_SNAPSHOT, _TEXTS),
}
# Modules and packages whose code cannot change a row, and why. What they import counts only if other code imports it.
LEFT_OUT = {
    "learn_spark.errors": "words and exit codes",
    "learn_spark.storage": "where bytes lie and how they get there, not what they are",
    "learn_spark.lake.artifacts": "copies of artifacts, held against their digests",
    "learn_spark.lake.lock": "who may write",
    "learn_spark.lake.lease": "likewise, in a store",
    "learn_spark.lake.identity": "refuses tables that are not the lake's own",
    "learn_spark.lake.live_files": "takes out files that cannot be read",
    "learn_spark.runs": "which days are made and what is recorded of them, not what is in them",
    "learn_spark.bridge.launch": "how the trainer's process starts; what it is told is in the stages",
    "learn_spark.bridge.folders": "folders of exports",
    "learn_spark.quality": "gates stop a release; they change none",
    "learn_spark.features.checks": "gates of a release",
    "learn_spark.features.neighbours": "words for the report",
    "learn_spark.ingest.delivery_gates": "gates of a delivery",
    "learn_spark.embedding.vector_health": "gates of the vectors",
    "learn_spark.sequences.audit": "stops what leaks; changes no row",
    "learn_spark.training.mlflow_runs": "what MLflow is told",
    "models.training.progress_bar": "words",
}
# Functions that only print or log, and by constructor of a contract the position of its explanation argument.
SAYING = {"print", "say", "debug", "info", "warning", "error"}
EXPLAINED = {"Column": 2, "TableSpec": 1}


@dataclass(frozen=True)
class Code:
    """The code that a step, or a command of the comparison, runs.

    Attributes:
        version: the declared version.
        digests: by module, a digest of the definitions that the step reaches in it.
    """

    version: int
    digests: Mapping[str, str]


@dataclass
class Changes:
    """Differences between the current code and the record.

    Attributes:
        modules: by step, the modules that changed, were added or are no longer reached.
        raised: steps whose version was raised, with the new version.
        lowered: steps whose version is below the recorded one.
    """

    modules: dict[str, list[str]] = field(default_factory=dict)
    raised: dict[str, int] = field(default_factory=dict)
    lowered: list[str] = field(default_factory=list)

    @property
    def untold(self) -> dict[str, list[str]]:
        """The changed modules of steps whose version was not raised."""
        return {step: modules for step, modules in self.modules.items() if step not in self.raised}

    def lines(self) -> list[str]:
        """What the developer has to do, one line per step."""
        told = [
            f"{step}: {', '.join(modules)} changed. Would rows differ? Then raise its version ({_where(step)})."
            ' If not: make rows-unchanged NOTE="why"'
            for step, modules in self.untold.items()
        ]
        told += [f"{step}: its version is lower than the recorded one; versions only go up" for step in self.lowered]
        if self.raised and not told:
            raised = ", ".join(f"{step} to {version}" for step, version in self.raised.items())
            told.append(f"{raised}: the raised version is not recorded yet: make rows-unchanged")
        return told


def _where(step: str) -> str:
    return "version of its spec in models/contract" if "-" in step else "version= in learn_spark/pipeline.py"


def current_code() -> dict[str, Code]:
    """The current code of every step and of every command of the comparison, by name."""
    from learn_spark.pipeline import STEPS
    from models.contract.commands import COMMANDS

    found = {}
    for name, step in STEPS.items():
        run = f"{step.run.__module__}.{step.run.__name__}"
        found[name] = Code(step.version, _digests([run, TABLES_DOOR, *_entries(*COMMANDS_RUN.get(name, ()))]))
    for command, inputs in COMPARISON_INPUTS.items():
        found[f"compare {command}"] = Code(COMMANDS[command].version, _digests([*_entries(command), *inputs]))
    return found


def _entries(*commands: str) -> list[str]:
    """The dotted names of the `run` functions and the specs of commands of `python -m models`."""
    from models.contract.commands import COMMANDS

    specs = [COMMANDS[command] for command in commands]
    return [name for spec in specs for name in (f"{spec.module}.run", f"{spec.__module__}.{spec.__name__}")]


def changes(recorded: Mapping[str, object], code: Mapping[str, Code]) -> Changes:
    """Compares code with the record. A new step counts as raised from version 0."""
    found = Changes()
    for step, now in code.items():
        was = recorded["steps"].get(step, {"version": 0, "modules": {}})
        differing = {module for module, _ in was["modules"].items() ^ now.digests.items()}
        if differing:
            found.modules[step] = sorted(differing)
        if now.version > was["version"]:
            found.raised[step] = now.version
        elif now.version < was["version"]:
            found.lowered.append(step)
    return found


def record(recorded: Mapping[str, object], code: Mapping[str, Code], note: str | None) -> dict[str, object]:
    """The new content of the file.

    Raises:
        ValueError: code changed without a raised version or a note, or a version is lower than before.
    """
    found = changes(recorded, code)
    if found.lowered or (found.untold and not note):
        raise ValueError("\n".join(found.lines()))
    notes = list(recorded["notes"])
    if found.untold or found.raised:
        modules = sorted({module for its in found.modules.values() for module in its})
        notes.append({"date": str(date.today()), "raised": found.raised, "modules": modules, "note": note})
    return {
        "steps": {
            step: {"version": now.version, "modules": dict(sorted(now.digests.items()))} for step, now in code.items()
        },
        "notes": notes,
    }


def read_record() -> dict[str, object]:
    """The recorded code."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def _digests(roots: Iterable[str]) -> dict[str, str]:
    """By module, a digest of its definitions that the roots reach, through the names in each definition."""
    reached: dict[str, dict[str, str]] = {}
    waiting = list(roots)
    while waiting:
        for module, name in _definitions(waiting.pop()):
            if name not in reached.setdefault(module, {}):
                references = [each for each in _source(module).references(name) if not _is_left_out(each)]
                reached[module][name] = f"{_source(module).text(name)} {references}"
                waiting += references
    return {
        module: hashlib.sha256(repr(sorted(its.items())).encode()).hexdigest()[:16] for module, its in reached.items()
    }


def _is_left_out(name: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in LEFT_OUT)


def _definitions(name: str) -> list[tuple[str, str]]:
    """(module, name) of the definitions that a dotted name refers to; a module's name refers to all in the module."""
    module, rest = name, ""
    while _file_of(module) is None:
        module, _, rest = module.rpartition(".")
        if not module:
            return []
    source = _source(module)
    if rest in source.imports:
        return _definitions(source.imports[rest])
    return [(module, each) for each in source.nodes if not rest or each in (rest, ALWAYS)]


class Source:
    """A module's definitions, without the parts that cannot change a row.

    Attributes:
        nodes: top-level statements by the names that they define; statements that define no name are under `ALWAYS`.
        imports: dotted names of imported objects, by their names in this module.
    """

    def __init__(self, module: str, text: str) -> None:
        tree = _Bare().visit(ast.parse(text))
        self.imports = dict(_imported(tree))
        self.nodes: dict[str, list[ast.stmt]] = {}
        for node in tree.body:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                for name in _defined(node) or [ALWAYS]:
                    self.nodes.setdefault(name, []).append(node)
        self._here = {name: f"{module}.{name}" for name in self.nodes}

    def text(self, name: str) -> str:
        """A definition's code as text."""
        return "".join(map(_dumped, self.nodes[name]))

    def references(self, name: str) -> list[str]:
        """The dotted names that a definition refers to."""
        known, found, bases = self._here | self.imports, set(), set()
        for node in (each for top in self.nodes[name] for each in ast.walk(top)):  # an attribute before its base
            base = getattr(node, "value", None)
            if isinstance(node, ast.Attribute) and isinstance(base, ast.Name) and base.id in self.imports:
                found.add(f"{self.imports[base.id]}.{node.attr}")
                bases.add(base)
            elif isinstance(node, ast.Name) and node.id in known and node not in bases:
                found.add(known[node.id])
        return sorted(found)


def _dumped(node: object) -> str:
    """As `ast.dump`, but the same in all versions of Python, because empty fields are left out."""
    if isinstance(node, ast.AST):
        parts = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({', '.join(f'{name}={_dumped(value)}' for name, value in parts)})"
    return f"[{', '.join(map(_dumped, node))}]" if isinstance(node, list) else repr(node)


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


@cache
def _source(module: str) -> Source:
    return Source(module, _file_of(module).read_text(encoding="utf-8"))


@cache
def _file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py") if module.split(".")[0] in PACKAGES else ()
    return next((file for file in files if file.is_file()), None)


class _Bare(ast.NodeTransformer):
    """Removes the parts of the code that cannot change a row."""

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
        for argument in (node.args.vararg, node.args.kwarg):
            if argument:
                argument.annotation = None
        for inner in ast.walk(node):
            if isinstance(inner, ast.AnnAssign):
                inner.annotation = ast.Constant(None)
        return self._without_words(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_words(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._without_words(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keeps an error's class and drops its message."""
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Drops the explanation of a contract; its name and type stay."""
        place = EXPLAINED.get(getattr(node.func, "id", ""))
        if place is not None:
            del node.args[place : place + 1]
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        function = getattr(node.value, "func", None)
        name = getattr(function, "attr", getattr(function, "id", None))
        return None if name in SAYING else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)

    def _without_words(self, node: ast.AST) -> ast.AST:
        """Drops docstrings, which are statements of a string alone."""
        node.body = [part for part in node.body if not _is_text(part)]
        return self.generic_visit(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def main(argv: list[str] | None = None) -> int:
    """`record [--note WHY]` rewrites the file; `check` prints what is not recorded. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/step_code.py", description=__doc__)
    parser.add_argument("action", choices=("check", "record"))
    parser.add_argument("--note", help="why rows do not change")
    args = parser.parse_args(argv)
    code, recorded = current_code(), read_record()
    if args.action == "check":
        lines = changes(recorded, code).lines()
        print("\n".join(lines), file=sys.stderr)
        return 1 if lines else 0
    try:
        fresh = record(recorded, code, args.note)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    FILE.write_text(json.dumps(fresh, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
