"""Baichuan2-7B without its remote code: Llama with one fused projection.

From Yang et al., Baichuan 2 (arXiv 2309.10305): rotary positions, RMSNorm, SwiGLU; `W_pack` holds the rows of the
query, key and value projections one after the other. NormHead only shapes logits, which an embedding never needs.
The 13B model has ALiBi instead of rotary positions and is refused.
"""

from functools import cache

from transformers import AutoConfig, AutoModel, LlamaConfig, LlamaModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter

from models.contract.failures import BadInput

MODEL_TYPE = "baichuan"


class BaichuanConfig(LlamaConfig):
    """Llama's config under Baichuan's name."""

    model_type = MODEL_TYPE


class BaichuanModel(LlamaModel):
    """Llama's layers; the class exists for its config alone."""

    config_class = BaichuanConfig


@cache
def register() -> None:
    """Lets transformers' Auto classes read folders of model type `baichuan`."""
    AutoConfig.register(MODEL_TYPE, BaichuanConfig)
    AutoModel.register(BaichuanConfig, BaichuanModel)
    projections = [f"self_attn.{name}_proj.weight" for name in "qkv"]
    fused = WeightConverter("self_attn.W_pack.weight", projections, operations=[Chunk(dim=0)])
    register_checkpoint_conversion_mapping(MODEL_TYPE, [fused])


def check_config(config: dict[str, object]) -> None:
    """Refuses the Baichuan models that differ from Llama.

    Raises:
        BadInput: the config has no `max_position_embeddings`, as those of the 13B models, whose positions are ALiBi's.
    """
    if "max_position_embeddings" not in config:
        raise BadInput(
            "this Baichuan has no max_position_embeddings, so its positions are ALiBi's (13B);"
            " only the models with rotary positions (7B) are read"
        )
