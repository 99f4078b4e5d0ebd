"""Exports towers and conversion model as programs that run without this package: `torch.export` (.pt2) and ONNX.

The programs compute the same as batch scoring (`Towers.embed_users`, `Towers.embed_items`, `CVRModel.score`), but on
padded rectangles instead of packed sequences, because selections of data-dependent size cannot be exported.

Shapes: B rows (any number from 1 on), H history length (1 .. max_len), C content width, D model width, K output width,
E width of mid_emb, N = B * H, L labels of the conversion model.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim

from models.contract.export_specs import ONNX, PT2, OnlineSpec
from models.contract.failures import BadInput
from models.contract.result import write_result
from models.contract.trained_model import EVENT_TYPES, OTHER_LABELS
from models.contract.verified import file_digest
from models.contract.whole_files import require_folder
from models.layers.transformer import causal_mean
from models.saved import load_cvr, load_towers
from models.towers.cvr import CVRModel
from models.towers.towers import Towers

NEEDED = ("onnx", "onnxscript")
LARGEST_INLINE = 1 << 30  # bytes of weights in an .onnx file, limited by protobuf; larger weights get a file beside it
_EXAMPLE = 3  # rows of the example inputs; the exporter takes the sizes 0 and 1 for constants


class Rectangle:
    """The interface of `models.layers.packing.Packing` for rows of one length, without packing: all slots are computed.

    A position does not see later ones, so the slots after a sequence's end do not affect the real positions.
    """

    def __init__(self, rows: int, length: int, device: torch.device) -> None:
        self.shape = (rows, length)
        self.position_N = torch.arange(length, device=device).repeat(rows)

    def groups(self, x_ND: Tensor) -> list[Tensor]:
        """[N, D] reshaped to a single group, [B, H, D]."""
        return [x_ND.unflatten(0, self.shape)]

    def ungrouped(self, groups: list[Tensor]) -> Tensor:
        """The inverse of `groups`."""
        return groups[0].flatten(0, 1)


class UserTower(nn.Module):
    """Computes a user's published embedding from the content of his or her history."""

    outputs = ("user_emb",)

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.towers = towers
        self.inputs = ("content", "item_idx", "length", *(["event_type"] if towers.event_types else []))

    def forward(self, content_BHC: Tensor, item_BH: Tensor, length_B: Tensor, type_BH: Tensor | None = None) -> Tensor:
        """user_emb [B, K], zeros for an empty history.

        Args:
            content_BHC: content vectors, oldest first, float32; after a history's end any finite numbers.
            item_BH: their item_idx, int64; only towers with `id_residual` use them.
            length_B: number of items of each history, int64, 0 .. H.
            type_BH: codes of the event types, int64, 1 .. number of types, and 0 after a history's end; only for towers
                with event types.
        """
        towers = self.towers
        input_BHC = towers.inputs(content_BHC, item_BH)
        token_BHD = _transformed(towers, input_BHC, type_BH)
        last_B1 = (length_B - 1).clamp(min=0)[:, None, None]
        if towers.config.pooling == "mean":
            out_BK = _at(causal_mean(towers.head(token_BHD)), last_B1)
        else:
            out_BK = towers.head(_at(token_BHD, last_B1))
        if towers.config.content_residual:
            residual_BHK = towers.residual(input_BHC)
            if towers.events is not None and type_BH is not None:
                residual_BHK = residual_BHK * towers.events.weight(type_BH)[:, :, None]
            out_BK = out_BK + _at(causal_mean(residual_BHK), last_B1)
        vector_BK = nn.functional.normalize(out_BK, dim=-1)
        return towers.published(vector_BK, torch.ones_like(vector_BK[:, 0])) * (length_B > 0)[:, None]


class ItemTower(nn.Module):
    """Computes items' published embeddings from their content, each item without a sequence."""

    inputs = ("content", "item_idx")
    outputs = ("item_emb",)

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, content_BC: Tensor, item_B: Tensor) -> Tensor:
        """item_emb [B, K].

        Args:
            content_BC: content vectors, float32; zeros for an item without content.
            item_B: item_idx, int64; only towers with `id_residual` or `item_bias` use them.
        """
        towers = self.towers
        input_BC = towers.inputs(content_BC, item_B)
        if towers.config.item_tower == "content":
            out_BK = towers.residual(input_BC)
        elif towers.config.item_tower == "mlp":
            out_BK = towers.item_mlp(input_BC)
        else:
            out_BK = towers.head(_transformed(towers, input_BC[:, None])[:, 0])
        if towers.config.content_residual and towers.config.item_tower != "content":
            out_BK = out_BK + towers.residual(input_BC)
        return towers.published(nn.functional.normalize(out_BK, dim=-1), towers.bias(item_B))


class Conversion(nn.Module):
    """Computes the conversion model's middle layer and probabilities."""

    inputs = ("user_emb", "item_emb")

    def __init__(self, cvr: CVRModel) -> None:
        super().__init__()
        self.cvr = cvr
        self.outputs = ("mid_emb", "cvr_score", *(["other_scores"] if cvr.other_labels else []))

    def forward(self, user_BK: Tensor, item_BK: Tensor) -> tuple[Tensor, ...]:
        """mid_emb [B, E], cvr_score [B] and, where the model has other labels, other_scores [B, L - 1], row by row."""
        mid_BE, logit_BL = self.cvr(user_BK, item_BK)
        probability_BL = logit_BL.sigmoid()
        found = mid_BE, probability_BL[:, 0]
        return (*found, probability_BL[:, 1:]) if self.cvr.other_labels else found


_Program = UserTower | ItemTower | Conversion


def run(spec: OnlineSpec) -> dict[str, object]:
    """Exports the spec's models.

    Returns:
        The content of result.json: sizes; the learned `repeat_bias` and the spec's `retrieval` weights; `event_types`,
        the names of those that the user tower reads, beginning with code 1; `other_labels`, the names of the columns of
        other_scores; for each program its files, their digests, inputs and outputs.

    Raises:
        BadInput: the models do not fit each other, or a package that the format needs is not installed.
    """
    if ONNX in spec.formats:
        _require_onnx()
    towers = load_towers(require_folder(spec.towers, "towers")) if spec.towers else None
    cvr = load_cvr(require_folder(spec.cvr, "cvr")) if spec.cvr else None
    if towers and cvr and {cvr.user_dim, cvr.item_dim} != {width := towers.config.embedding_dim}:
        raise BadInput(
            f"{spec.cvr} takes embeddings of widths {cvr.user_dim} and {cvr.item_dim}, but {spec.towers} makes {width}"
        )
    modules: dict[str, _Program] = {}
    sizes: dict[str, int] = {}
    about: dict[str, object] = {"sizes": sizes}
    if towers:
        modules |= {"user_tower": UserTower(towers), "item_tower": ItemTower(towers)}
        sizes |= {"content_dim": towers.content_dim, "max_history": towers.config.max_len}
        sizes |= {"embedding_dim": towers.config.embedding_dim}
        about["repeat_bias"] = None if towers.repeat_bias is None else towers.repeat_bias.item()
        about["retrieval"] = spec.retrieval.model_dump() if spec.retrieval else None
        about |= {EVENT_TYPES: list(towers.event_types)} if towers.event_types else {}
    if cvr:
        modules["cvr"] = Conversion(cvr)
        sizes |= {"embedding_dim": cvr.user_dim, "mid_dim": cvr.mid_dim}
        about |= {OTHER_LABELS: list(cvr.other_labels)} if cvr.other_labels else {}
    spec.out_dir.mkdir(parents=True, exist_ok=True)
    about["programs"] = {name: _exported(name, module.eval(), spec) for name, module in modules.items()}
    write_result(spec.out_dir, about)
    return about


def _exported(name: str, module: _Program, spec: OnlineSpec) -> dict[str, object]:
    """Writes one module in the spec's formats; returns its files with digests, and the names of inputs and outputs."""
    example, dynamic = _example(module)
    with torch.no_grad(), _quiet():
        # Deferred, because for some sizes the exporter cannot prove constraints that hold for all allowed sizes.
        program = torch.export.export(
            module, example, dynamic_shapes=dynamic, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
    files = {}
    if PT2 in spec.formats:
        files[PT2] = f"{name}.{PT2}"
        torch.export.save(program, spec.out_dir / files[PT2])
    if ONNX in spec.formats:
        files[ONNX] = f"{name}.{ONNX}"
        is_large = sum(weight.nbytes for weight in module.state_dict().values()) > LARGEST_INLINE
        with _quiet():
            converted = torch.onnx.export(
                program,
                input_names=list(module.inputs),
                output_names=list(module.outputs),
                dynamo=True,
                verbose=False,
                optimize=True,
            )
            assert converted is not None, "a program comes with dynamo=True"
            converted.save(spec.out_dir / files[ONNX], external_data=is_large)
    written = sorted(spec.out_dir.glob(f"{name}.*"))  # large ONNX weights are in a separate file
    digests = {file.name: file_digest(file) for file in written}
    return {"files": files, "sha256": digests, "inputs": list(module.inputs), "outputs": list(module.outputs)}


def _example(module: _Program) -> tuple[tuple[Tensor, ...], tuple[dict, ...]]:
    """Example inputs for tracing, and their dynamic dimensions."""
    rows = Dim("rows", min=1)
    if isinstance(module, Conversion):
        sides = tuple(torch.randn(_EXAMPLE, width) for width in (module.cvr.user_dim, module.cvr.item_dim))
        return sides, ({0: rows}, {0: rows})
    towers, longest = module.towers, module.towers.config.max_len
    if isinstance(module, ItemTower):
        return (torch.randn(_EXAMPLE, towers.content_dim), torch.zeros(_EXAMPLE).long()), ({0: rows}, {0: rows})
    history = {1: Dim("history", min=1, max=longest)} if longest > 1 else {}
    hist = min(_EXAMPLE + 1, longest)
    content = torch.randn(_EXAMPLE, hist, towers.content_dim)
    item, length = torch.zeros(_EXAMPLE, hist).long(), torch.full((_EXAMPLE,), hist)
    types = [torch.ones(_EXAMPLE, hist).long()] if towers.event_types else []
    per_event = {0: rows} | history
    return (content, item, length, *types), (per_event, per_event, {0: rows}, *(per_event for _ in types))


def _transformed(towers: Towers, input_BHC: Tensor, type_BH: Tensor | None = None) -> Tensor:
    x_BHD = towers.adaptor(input_BHC)
    rectangle, x_ND = Rectangle(*x_BHD.shape[:2], device=x_BHD.device), x_BHD.flatten(0, 1)
    if towers.events is not None and type_BH is not None:
        x_ND = towers.events(x_ND, type_BH.flatten())
    return rectangle.groups(towers.sequence(x_ND, rectangle))[0]


def _at(x_BHD: Tensor, position_B11: Tensor) -> Tensor:
    return x_BHD.gather(1, position_B11.expand(-1, -1, x_BHD.shape[2]))[:, 0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's exporters, which warn of their own deprecations and of missing packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _require_onnx() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(
            f"formats: onnx needs the packages {', '.join(missing)}: pip install 'learn-spark[online]', or leave it out"
        )
