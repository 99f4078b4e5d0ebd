"""Tiny checkpoints with random weights, in the layouts that real ones have on disk."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ("red", "blue", "green", "lamp", "mug", "holder", "heart", "lantern", "white", ".", "0", "1", "2")


def save_tiny_llama(folder: Path, scale: float = 1.0) -> Path:
    """A causal Llama of two layers and width 16, its tokenizer without a padding token.

    Args:
        folder: where to save.
        scale: factor on the last norm, and so on every vector.
    """
    vocabulary = {word: place for place, word in enumerate(["<unk>", "</s>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.model.norm.weight.data.mul_(scale)
    model.save_pretrained(folder)
    return folder
