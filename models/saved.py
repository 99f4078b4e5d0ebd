"""Models on disk: `model.safetensors` for the weights, `config.json` for the rest. Nothing is unpickled."""

import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.baselines.als import ALS
from models.baselines.hstu import HSTU
from models.baselines.sasrec import SASRec
from models.baselines.sequential import SequentialModel
from models.contract.failures import BadInput
from models.contract.language_models import NoteLLMConfig, PromptConfig
from models.contract.settings import ALSConfig, CVRConfig, SequentialConfig, TowersConfig
from models.contract.strict import parse_settings
from models.contract.trained_model import (
    CONFIG,
    EVENT_TYPES,
    OTHER_LABELS,
    WEIGHTS,
    event_types_of,
    other_labels_of,
    read_about,
    require_weights,
    write_about,
)
from models.contract.whole_files import write_whole
from models.data.content import ContentMatrix
from models.towers.cvr import CVRModel
from models.towers.towers import Towers

if TYPE_CHECKING:
    from models.baselines.notellm import NoteLLM
    from models.baselines.prompt_ranker import PromptRanker

    LanguageSystem = NoteLLM | PromptRanker

LARGEST_SIZE = 1 << 31
RENAMED = {"out_dim": "embedding_dim"}  # former names of fields in saved configs
NOTELLM, PROMPTS, ALS_KIND = "notellm", "prompts", "als"
SEQUENTIAL: dict[str, type[SequentialModel]] = {"sasrec": SASRec, "hstu": HSTU}
ModelT = TypeVar("ModelT", bound=nn.Module)


class Retriever(Protocol):
    """A trained model whose score of an item for a user is the inner product of their embeddings.

    Attributes:
        repeat_bias: added to the scores of items that the user's history holds; None if none is learned.
    """

    repeat_bias: Tensor | None

    def embed_users(
        self,
        hist_items_BH: np.ndarray,
        hist_len_B: np.ndarray,
        content: ContentMatrix,
        batch_size: int = 512,
        hist_ts_BH: np.ndarray | None = None,
        hist_types_BH: np.ndarray | None = None,
    ) -> np.ndarray:
        """User embeddings, float32 [B, K].

        Histories are item_idx, oldest first, padded on the right, with the events' times in seconds and type codes.
        """
        ...

    def embed_items(self, item_idx_N: np.ndarray, content: ContentMatrix, batch_size: int = 4096) -> np.ndarray:
        """Item embeddings, float32 [N, K]."""
        ...

    def parameters(self) -> Any:  # noqa: ANN401 - nn.Module's own
        """The weights."""
        ...


def save_towers(path: Path | str, model: Towers, state: dict[str, Tensor] | None = None) -> None:
    """Write the towers into folder `path`; `state`, if given, replaces the model's own weights."""
    sizes = {"content_dim": model.content_dim, "num_items": model.num_items}
    named = {EVENT_TYPES: list(model.event_types)} if model.event_types else {}
    _save(Path(path), "towers", sizes, model.config.model_dump(), state or model.state_dict(), named)


def save_cvr(path: Path | str, model: CVRModel, state: dict[str, Tensor] | None = None) -> None:
    """Write the CVR model into folder `path`; `state`, if given, replaces the model's own weights."""
    sizes = {"user_dim": model.user_dim, "item_dim": model.item_dim}
    if model.mapped_dim:
        sizes["mapped_dim"] = model.mapped_dim
    named = {OTHER_LABELS: list(model.other_labels)} if model.other_labels else {}
    _save(Path(path), "cvr", sizes, model.config.model_dump(), state or model.state_dict(), named)


def save_sequential(path: Path | str, model: SequentialModel, state: dict[str, Tensor] | None = None) -> None:
    """Write a sequential model into folder `path`; `state`, if given, replaces the model's own weights."""
    sizes = {"num_items": model.num_items}
    _save(Path(path), model.config.kind, sizes, model.config.model_dump(), state or model.state_dict())


def save_als(path: Path | str, model: ALS) -> None:
    """Write the items' factors into folder `path`."""
    _save(Path(path), ALS_KIND, {"num_items": model.num_items}, model.config.model_dump(), model.state_dict())


def save_language(path: Path | str, kind: str, model: "LanguageSystem", state: dict[str, Tensor] | None = None) -> None:
    """Write the trained weights of a language-model system into folder `path`; `state` as in `save_towers`.

    config.json refers to the frozen weights by their folder and digest, and to the items' texts by their folder.
    """
    config = {"model": model.config.model_dump(), "item_texts": str(model.texts.folder)}
    _save(Path(path), kind, {"num_items": model.num_items}, config, state or model.state_dict())


def load_towers(path: Path | str) -> Towers:
    """The towers in folder `path`, ready for scoring.

    Raises:
        BadInput: the folder holds no such model, or its files do not fit together.
    """
    sizes, settings, state = _load(Path(path), "towers", ("content_dim", "num_items"))
    config, types = parse_settings(TowersConfig, settings, f"{path}/config.json"), event_types_of(Path(path))
    return _filled(Path(path), lambda: Towers(config, **sizes, event_types=types), state)


def load_cvr(path: Path | str) -> CVRModel:
    """The CVR model in folder `path`, ready for scoring; raises as `load_towers`."""
    sizes, settings, state = _load(Path(path), "cvr", ("user_dim", "item_dim"), ("mapped_dim",))
    config, others = parse_settings(CVRConfig, settings, f"{path}/config.json"), other_labels_of(Path(path))
    return _filled(Path(path), lambda: CVRModel(config, **sizes, other_labels=others), state)


def load_sequential(path: Path | str) -> SequentialModel:
    """The sequential model in folder `path`, ready for scoring; raises as `load_towers`."""
    kind = kind_of(path)
    if kind not in SEQUENTIAL:
        raise BadInput(f"model {path} is of kind {kind!r}, wanted one of: {', '.join(SEQUENTIAL)}")
    sizes, settings, state = _load(Path(path), kind, ("num_items",))
    config = parse_settings(SequentialConfig, settings, f"{path}/config.json")
    return _filled(Path(path), lambda: SEQUENTIAL[kind](config, **sizes), state)


def load_als(path: Path | str) -> ALS:
    """The items' factors in folder `path`, ready for scoring; raises as `load_towers`."""
    sizes, settings, state = _load(Path(path), ALS_KIND, ("num_items",))
    config = parse_settings(ALSConfig, settings, f"{path}/config.json")
    return _filled(Path(path), lambda: ALS(config, **sizes), state)


def load_language(path: Path | str) -> "LanguageSystem":
    """The language-model system in folder `path`, ready for scoring; raises as `load_towers`."""
    from models.baselines.notellm import NoteLLM  # imports transformers, which only these systems need
    from models.baselines.prompt_ranker import PromptRanker
    from models.data.item_texts import ItemTexts

    kind, kinds = kind_of(path), {NOTELLM: (NoteLLM, NoteLLMConfig), PROMPTS: (PromptRanker, PromptConfig)}
    if kind not in kinds:
        raise BadInput(f"model {path} is of kind {kind!r}, wanted one of: {', '.join(kinds)}")
    cls, settings_of = kinds[kind]
    sizes, settings, state = _load(Path(path), kind, ("num_items",))
    if not isinstance(settings, dict) or not isinstance(settings.get("item_texts"), str):
        raise BadInput(f"model {path}: {CONFIG} must hold `model`, and the folder of the `item_texts`")
    config = parse_settings(settings_of, settings.get("model"), f"{path}/config.json")
    texts = ItemTexts(settings["item_texts"])
    return _filled(Path(path), lambda: cls(config, texts, **sizes), state)


def load_retriever(path: Path | str) -> Retriever:
    """The retriever in folder `path`, of whatever kind, ready for scoring; raises as `load_towers`."""
    loaders: dict[str, Callable[[Path | str], Any]] = {
        "towers": load_towers,
        ALS_KIND: load_als,
        NOTELLM: load_language,
    }
    return loaders.get(kind_of(path) or "", load_sequential)(path)


def kind_of(path: Path | str) -> str | None:
    """The kind that config.json in folder `path` names; raises BadInput if the file cannot be read."""
    kind = read_about(Path(path)).get("kind")
    return kind if isinstance(kind, str) else None


def _save(
    path: Path,
    kind: str,
    sizes: dict[str, int],
    config: dict[str, Any],
    state: dict[str, Tensor],
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_whole(path / WEIGHTS, lambda partial: save_file(weights, partial))
    write_about(path, {"kind": kind, "sizes": sizes, "config": config, **more})


def _load(
    path: Path, kind: str, size_names: tuple[str, ...], more: tuple[str, ...] = ()
) -> tuple[dict[str, int], Any, dict[str, Tensor]]:
    """Sizes, config and weights. The sizes must be those of `size_names`; those of `more` are optional."""
    about = read_about(path)
    if about.get("kind") != kind:
        raise BadInput(f"model {path} is of kind {about.get('kind')!r}, wanted {kind!r}")
    sizes = about.get("sizes")
    if not isinstance(sizes, dict) or not set(size_names) <= set(sizes) <= {*size_names, *more}:
        raise BadInput(f"model {path}: {CONFIG} must hold the sizes {', '.join(size_names)}")
    for name, size in sizes.items():
        if type(size) is not int or not 0 <= size < LARGEST_SIZE:
            raise BadInput(f"model {path}: {CONFIG} has {reprlib.repr(size)} for {name}, which is no size")
    try:
        state = load_file(require_weights(path, about))
    except OSError as error:
        raise BadInput(f"model {path}: cannot read {error.filename or error}") from None
    except SafetensorError as error:
        raise BadInput(f"model {path}: a damaged or foreign file: {error}") from None
    return sizes, _renamed(about.get("config")), state


def _renamed(config: object) -> object:
    """A saved config with former names of fields replaced by the current ones."""
    if not isinstance(config, dict):
        return config
    return {RENAMED.get(name, name): _renamed(value) for name, value in config.items()}


def _filled(path: Path, make: Callable[[], ModelT], state: dict[str, Tensor]) -> ModelT:
    try:
        model = make()
        model.load_state_dict(state)
    except BadInput:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        line = " ".join(str(error).split())[:400]
        raise BadInput(f"model {path}: weights do not fit {CONFIG}, or it makes no model: {line}") from None
    return model.eval()
