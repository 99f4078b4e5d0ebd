"""Finds a Hugging Face model on disk, checks it before it is loaded, and names it by its content. Needs no torch."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models.contract.failures import BadInput
from models.contract.verified import file_digest
from models.contract.whole_files import read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
TOKENIZER_SIDE_FILES = (
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Decoders with full causal attention only, so that the first tokens' states do not depend on later tokens.
CAUSAL = ("baichuan", "llama", "qwen2", "qwen3")
LAYERS = "num_hidden_layers"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def locate(model: str, revision: str | None) -> Path:
    """The checked folder of a model: a local folder, or a model of the hub, fetched into the hub's local cache.

    Args:
        model: a folder, or a hub name `owner/name`.
        revision: for a hub name the commit, 40 hex digits; branches and tags can move and are refused.

    Raises:
        BadInput: the model is not found, the revision is no commit, or the folder lacks a part.
    """
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or not _HUB_NAME.fullmatch(model):
            raise BadInput(f"model folder {model} does not exist")
        folder = _fetch(model, revision)
    check_folder(folder)
    return folder


def check_folder(folder: Path) -> None:
    """Refuses a folder that lacks config, tokenizer or safetensors weights, naming all that it lacks.

    Raises:
        BadInput: names the folder and what is missing; pickled weights do not count as weights.
    """
    lacks = []
    if not (folder / "config.json").is_file():
        lacks.append("config.json")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        lacks.append(f"a tokenizer ({', '.join(TOKENIZER_FILES)})")
    lacks += _missing_weights(folder)
    if not lacks:
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    hint = ""
    if pickles and not any(folder.glob("*.safetensors")):
        hint = f"; pickled weights ({', '.join(pickles)}) are refused: convert them to safetensors"
    raise BadInput(f"model folder {folder} lacks {' and '.join(lacks)}{hint}")


def encoder_id(
    folder: Path, revision: str | None, pooling: str, max_tokens: int, dtype: str, layer: int | None = None
) -> str:
    """A readable name and 12 hex digits of a hash over all that a vector depends on; the folder's path does not count.

    Raises:
        BadInput: config.json cannot be read, or there is no such layer.
    """
    config = _read_config(folder)
    stop = early_stop(folder, layer)
    shape = "x".join(str(config[key]) for key in (LAYERS, "hidden_size") if key in config)
    early = f"{stop}of" if stop else ""
    name = re.sub(r"[^\w-]", "", f"{config.get('model_type', 'model')}-{early}{shape}".rstrip("-"))
    parts = (content_digest(folder), revision, pooling, max_tokens, dtype, *([stop] if stop else []))
    return f"{name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"


def num_layers(folder: Path) -> int | None:
    """The number of the model's layers; None if its config does not say.

    Raises:
        BadInput: config.json cannot be read.
    """
    layers = _read_config(folder).get(LAYERS)
    return layers if isinstance(layers, int) else None


def early_stop(folder: Path, layer: int | None) -> int | None:
    """The layer after which the model is cut off, counted from 1; None if that is the last layer.

    Raises:
        BadInput: the model has no such layer; the error says how many it has.
    """
    if layer is None:
        return None
    layers = num_layers(folder)
    if layers is None:
        raise BadInput(f"layer {layer}: {folder / 'config.json'} has no {LAYERS} to count by; leave the layer out")
    if not 1 <= layer <= layers:
        raise BadInput(f"layer {layer}: the model has {layers} layers, from 1, the first, to {layers}, the last")
    return layer if layer < layers else None


def content_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of weights, config and tokenizer; reads an unchanged file once per process."""
    whole = hashlib.sha256()
    for path in _identity_files(folder):
        whole.update(f"{path.name} {file_digest(path)}\n".encode())
    return whole.hexdigest()


def _read_config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json", f"model folder {folder}")


def _identity_files(folder: Path) -> Iterable[Path]:
    names = {"config.json", *TOKENIZER_FILES, *TOKENIZER_SIDE_FILES}
    named = [folder / name for name in names if (folder / name).is_file()]
    return sorted([*named, *folder.glob("*.safetensors")])


def _missing_weights(folder: Path) -> list[str]:
    index = folder / WEIGHTS_INDEX
    if index.is_file():
        weight_map = read_json(index, f"model folder {folder}").get("weight_map", {})
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise BadInput(f"{index}: weight_map must give every weight the name of its file")
        shards = set(weight_map.values())
        if elsewhere := sorted(name for name in shards if not _SHARD.fullmatch(name)):
            raise BadInput(f"{index}: weight_map names {elsewhere[0]!r}, which is no safetensors file of the folder")
        return sorted(name for name in shards if not (folder / name).is_file()) or ([] if shards else ["any weights"])
    return [] if any(file.is_file() for file in folder.glob("*.safetensors")) else ["weights (*.safetensors)"]


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if revision is None or not _COMMIT.fullmatch(revision):
        raise BadInput(
            f"model {name} is no local folder; a hub name needs a revision that is a commit"
            f" (40 hex digits), not {revision!r}"
        )
    wanted = ["*.safetensors", WEIGHTS_INDEX, "config.json", *TOKENIZER_FILES, *TOKENIZER_SIDE_FILES]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(f"model {name} at {revision} cannot be fetched: {reason}") from None
