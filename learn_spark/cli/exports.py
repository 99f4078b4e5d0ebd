"""The commands that export a release for other programs: models for a server, vectors for an index, item codes."""

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from learn_spark.cli.command import Call, Command, Outcome, Summary, with_config
from learn_spark.cli.releases import existing_lake, with_out
from learn_spark.releases.online import export_online
from learn_spark.releases.registry import find_release
from learn_spark.releases.vectors import export_codes, export_vectors
from learn_spark.storage import place_argument


@dataclass(frozen=True)
class ExportSummary(Summary):
    """The release, the place that it was written to, and `about`: the content of that folder's result.json."""

    release: str
    out: str
    about: Mapping[str, object]

    def as_json(self) -> dict[str, object]:
        """All keys on one level."""
        return {**self.about, "release": self.release, "out": self.out}


def _online_arguments(parser: ArgumentParser) -> None:
    with_out(parser)
    parser.add_argument("--no-onnx", action="store_true", help="no .onnx files, whose packages are an extra (online)")


def _online(call: Call) -> Outcome:
    out = place_argument(call.args.out, "--out", call.config.lake.options)
    formats: list[Literal["pt2", "onnx"]] = ["pt2"] if call.args.no_onnx else ["pt2", "onnx"]
    with existing_lake(call) as context:
        release = find_release(context.tables, call.args.release)
        about = export_online(context, release, out, formats)
    print(
        f"exported the models of release {release.release_id}, as {' and '.join(formats)} and pyfunc: {out}", flush=True
    )
    return Outcome(ExportSummary(release.release_id, str(out), about))


def _vector_arguments(parser: ArgumentParser) -> None:
    with_out(parser)
    kinds = ("hnsw", "ivf", "flat", "none")
    parser.add_argument("--index", choices=kinds, default="hnsw", help="of faiss, an extra (ann); hnsw")


def _vectors(call: Call) -> Outcome:
    out, index = place_argument(call.args.out, "--out", call.config.lake.options), call.args.index
    with existing_lake(call, writes=True) as context:
        release = find_release(context.tables, call.args.release)
        about = export_vectors(context, release, out, index)
    for name, part in {**about["copies"], **({index: about["index"]} if "index" in about else {})}.items():
        print(f"{name:<8} {part['bytes']:>14,} bytes  recall@{about['k']} {part['recall']:.4f}", flush=True)
    print(f"exported {about['items']:,} item vectors of release {release.release_id}: {out}", flush=True)
    return Outcome(ExportSummary(release.release_id, str(out), about))


def _codes(call: Call) -> Outcome:
    out = place_argument(call.args.out, "--out", call.config.lake.options)
    with existing_lake(call, writes=True) as context:
        release = find_release(context.tables, call.args.release)
        about = export_codes(context, release, out)
    told = f"{about['vocabulary']} tokens, {about['paths']:,} paths"
    print(f"exported the codes of {about['items']:,} items of release {release.release_id}, {told}: {out}", flush=True)
    return Outcome(ExportSummary(release.release_id, str(out), about))


COMMANDS = (
    Command(
        "export_online",
        "Writes a release's towers and conversion model for a server: torch.export, ONNX, an MLflow model.",
        (_online_arguments, with_config),
        _online,
    ),
    Command(
        "export_vectors",
        "Writes a release's item vectors: a faiss index, fp32, fp16 and int8 copies, and what each loses.",
        (_vector_arguments, with_config),
        _vectors,
    ),
    Command(
        "export_codes",
        "Writes a release's item codes for generative rankers: each item's tokens, their trie, the codebook.",
        (with_out, with_config),
        _codes,
    ),
)
