"""Loads a checked model folder: tokenizer, and weights from safetensors only. Code that comes with it never runs."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from models.contract.failures import BadInput
from models.contract.model_folder import CAUSAL
from models.contract.whole_files import read_json
from models.encoder import baichuan
from models.encoder.tokens import FastTokenizer, SentencePieceTokenizer, Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Tokenizer]:
    """The model, on the CPU, and the tokenizer of a folder.

    Args:
        folder: a folder that `model_folder.locate` has checked.
        dtype: dtype of the weights.

    Raises:
        BadInput: the folder cannot be loaded; one line.
    """
    model, tokenizer = _load(AutoModel, folder, dtype)
    if getattr(model, "pooler", None) is not None:
        # BERT's head on the first token would be computed at every call, and no pooling here uses it.
        model.pooler = None  # pyright: ignore[reportArgumentType] - a module's None is not in torch's types
    return model, tokenizer


def load_causal_lm(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Tokenizer]:
    """As `load_pretrained`, with the output layer.

    Raises:
        BadInput: as there, and for Baichuan2, whose output layer is a NormHead.
    """
    if read_json(folder / "config.json", f"model folder {folder}").get("model_type") == baichuan.MODEL_TYPE:
        raise BadInput(f"model folder {folder}: Baichuan2's output layer is not mapped; take a Llama or Qwen model")
    return _load(AutoModelForCausalLM, folder, dtype)


def is_causal(model: PreTrainedModel) -> bool:
    """Whether no position of the model sees a later one."""
    layers = getattr(model.config, "layer_types", None) or ["full_attention"]
    return model.config.model_type in CAUSAL and set(layers) == {"full_attention"}


def longest_input(model: PreTrainedModel) -> int:
    """The number of tokens that the model can read. RoBERTa reserves two of its positions for padding."""
    positions: int = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    return positions - 2 if "roberta" in model.config.model_type else positions


def _load(cls: type, folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Tokenizer]:
    disable_progress_bar()
    config = read_json(folder / "config.json", f"model folder {folder}")
    is_baichuan = config.get("model_type") == baichuan.MODEL_TYPE
    tokenizer = load_tokenizer(folder)
    try:
        if is_baichuan:
            baichuan.check_config(config)
            baichuan.register()
        model, report = cls.from_pretrained(
            folder,
            config=AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation=None,  # torch's own; the config may name a kernel from the hub
            experts_implementation=None,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # the libraries that read a folder have no common base class for their errors
        raise BadInput(f"model folder {folder} cannot be loaded: {_one_line(error)}") from error
    _check_complete(folder, report)
    return model, tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer alone, without the weights.

    Raises:
        BadInput: its files cannot be loaded; one line.
    """
    is_baichuan = read_json(folder / "config.json", f"model folder {folder}").get("model_type") == baichuan.MODEL_TYPE
    try:
        return SentencePieceTokenizer.load(folder) if is_baichuan else FastTokenizer.load(folder)
    except MemoryError:
        raise
    except Exception as error:  # as in `_load`
        raise BadInput(f"tokenizer of model folder {folder} cannot be loaded: {_one_line(error)}") from error


def _check_complete(folder: Path, report: dict[str, Any]) -> None:
    """Refuses a model with missing weights, which transformers fills with noise and a warning. The pooler is unused."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    wrong = [*missing, *(str(key) for key in report["mismatched_keys"])]
    if wrong:
        raise BadInput(
            f"model folder {folder} does not hold the whole model:"
            f" {len(wrong)} weights are missing or of another shape, such as {wrong[0]}"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
