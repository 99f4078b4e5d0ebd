"""What retrains leave of a ranker that is not trained anew: the demo retrained, its windows a week further each time.

    python -m benchmarks.retrain              # writes results/journey/retrain.json; its lake is build/bench/retrain
    python -m benchmarks.retrain --last 2     # one retrain alone

Every release is made by the command that a user types, `run_pipeline --restate`, in one lake; those that are there are
not made again. The last one is then fed to rankers that were trained on the embeddings of each earlier one. Beside the
chain stand retrains of the last windows: with another seed, with narrower content, with a space of their own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT
from learn_spark.bridge.launch import run_trainer
from learn_spark.config.load import load_config
from learn_spark.evaluation.job import ranker_spec
from learn_spark.lake.session import build_session
from learn_spark.lake.tables import Tables, is_lake
from learn_spark.pipeline import STEPS
from learn_spark.releases.registry import Release, find_release
from learn_spark.releases.release import published_release
from learn_spark.releases.spaces import ReleaseModels, mapped_into
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Ledger, fingerprint_of
from learn_spark.runs.progress import Progress
from learn_spark.runs.steps import EVALUATE_FEATURES, Context

DEMO = ROOT / "conf" / "demo.yaml"
CHAIN = ((35, 1), (28, 1), (21, 1), (14, 2), (7, 3), (0, 4))  # days before the demo's windows, and the towers' seed
OTHERS = {  # settings, and the releases of the chain that it is compared with
    "another seed": (["towers.train.seed=5", "cvr.train.seed=11"], [-1]),
    "content of 64 numbers per item": (["embedding.reduce_to=64"], [-1]),
    "a space of its own": (["towers.compatible_with=none"], [-2, 0]),
}
_MADE = [name for name in STEPS if name != EVALUATE_FEATURES]


def settings_of(root: Path, shift: int, seed: int) -> list[str]:
    """The demo's config with windows `shift` days earlier and other seeds, in a lake of its own."""
    windows = load_config(DEMO).windows
    moved = {name: getattr(windows, name) - timedelta(days=shift) for name in type(windows).model_fields}
    return [
        f"lake.root={root / 'lake'}",
        f"output.dir={root / 'output'}",
        *(f"windows.{name}={day}" for name, day in moved.items()),
        f"towers.train.seed={seed}",
        f"cvr.train.seed={seed + 6}",
    ]


def release_of(settings: Sequence[str]) -> str:
    """The id of the config's release. If there is none, the command makes it."""
    release_id = _published(settings)
    if release_id is None:
        given = [word for setting in settings for word in ("--set", setting)]
        command = ["--config", str(DEMO), "--restate", "--steps", ",".join(_MADE), *given]
        subprocess.run([sys.executable, "-m", "jobs.run_pipeline", *command], cwd=ROOT, check=True)
        release_id = _published(settings)
    assert release_id is not None, "just made"
    return release_id


def measured(settings: Sequence[str], earlier_ids: Sequence[str]) -> dict[str, Any]:
    """For a config's release: its ranker's gain, and what rankers of earlier releases keep when fed its features."""
    with _opened(settings) as context:
        release = published_release(context)
        assert release is not None, "it was made"
        earlier = [find_release(context.tables, name, readable=False) for name in earlier_ids]
        return {
            "release": release.release_id,
            "space": {name: _space(context, release, name) for name in ("towers", "cvr")},
            "kept": [_kept(context, release, one) for one in earlier],
        }


def _published(settings: Sequence[str]) -> str | None:
    with _opened(settings) as context:
        release = published_release(context) if is_lake(context.config.lake.root) else None
        return release.release_id if release else None


@contextmanager
def _opened(settings: Sequence[str]) -> Iterator[Context]:
    config = load_config(DEMO, settings)
    spark = build_session(config, "benchmark")
    try:
        tables = Tables(spark, config.lake.root)
        ledger = Ledger(spark, tables)
        yield Context(config, spark, tables, ledger, Fingerprints(config, STEPS, ledger.recorded), Progress(spark))
    finally:
        spark.stop()


def _space(context: Context, release: Release, name: str) -> dict[str, object]:
    return mapped_into(context.tables.artifacts.path("models", f"{name}-{release.models[name]}"))


def _kept(context: Context, release: Release, earlier: Release) -> dict[str, Any]:
    models = ReleaseModels.of(context.tables, earlier)
    name = fingerprint_of("retrain", release.release_id, earlier.release_id)
    spec = ranker_spec(context, release, name, (earlier, models)).model_copy(update={"alone": False})
    found = run_trainer(spec)
    return {**found["kept"], "auc_gain": found["auc_gain"], "auc_gain_ci90": found["auc_gain_ci90"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT / "build" / "bench" / "retrain")
    parser.add_argument("--last", type=int, default=len(CHAIN), help="so many releases of the chain's end")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "journey" / "retrain.json")
    parser.add_argument("--apart", type=int, nargs="+", default=[1, 3, 5], help="retrains between ranker and features")
    parser.add_argument("--others", nargs="*", choices=sorted(OTHERS), default=list(OTHERS))
    options = parser.parse_args(arguments)
    chain = CHAIN[-options.last :]
    made = [release_of(settings_of(options.root, *each)) for each in chain]
    last = settings_of(options.root, *chain[-1])
    figures: dict[str, Any] = {
        "date": f"{date.today()}",
        "command": "python -m benchmarks.retrain",
        "windows_earlier_by_and_seed": chain,
        "apart": options.apart,
        "chain": measured(last, [made[-1 - apart] for apart in options.apart]),
    }
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for name in options.others:
        more, places = OTHERS[name]
        release_of([*last, *more])
        figures[name] = measured([*last, *more], [made[place] for place in places])
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
