"""Tiny checkpoints with random weights and tokenizers, in the same files as real ones."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WORDS = ("red", "blue", "green", "lamp", "mug", "holder", "heart", "lantern", "white", ".", "0", "1", "2")
SENTENCES = [
    "item title: white hanging heart t-light holder",
    "item title: red lamp, blue mug and green lantern",
    "商品标题：红色台灯 蓝色马克杯",
    "category: kitchen; brand: mug & co; price: 12.50",
]
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def save_tiny_llama(folder: Path, scale: float = 1.0) -> Path:
    """A causal Llama of two layers and width 16, with a tokenizer that has no padding token.

    Args:
        folder: where to save it.
        scale: factor on the last norm's weight, and so on every vector.
    """
    vocabulary = {word: place for place, word in enumerate(["<unk>", "</s>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(vocab_size=len(vocabulary), num_key_value_heads=2, pad_token_id=None, **SIZES)
    return _save(folder, LlamaForCausalLM, config, scale)


def save_tiny_qwen2(folder: Path) -> Path:
    """A Qwen2: byte-level BPE with vocab.json, merges.txt and tokenizer.json; biases on query, key and value."""
    return _save(folder, Qwen2ForCausalLM, Qwen2Config(**_byte_level_bpe(folder), num_key_value_heads=2, **SIZES))


def save_tiny_qwen3(folder: Path) -> Path:
    """A Qwen3: as Qwen2, with norms on queries and keys instead of biases."""
    config = Qwen3Config(**_byte_level_bpe(folder), num_key_value_heads=2, head_dim=8, **SIZES)
    return _save(folder, Qwen3ForCausalLM, config)


def save_tiny_bert(folder: Path) -> Path:
    """A BERT: WordPiece with vocab.txt."""
    letters = [*"abcdefghijklmnopqrstuvwxyz.,:;&-0123456789"]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS[:9],
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    folder.mkdir(parents=True, exist_ok=True)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return _save(folder, BertModel, BertConfig(vocab_size=len(vocabulary), **SIZES))


def save_tiny_baichuan2(folder: Path) -> Path:
    """Files as of Baichuan2-7B: `W_pack`, NormHead's weights, remote code in both configs, SentencePiece with bytes.

    The weights are in two shards with an index, as the published ones after conversion to safetensors.
    """
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    code = "raise SystemExit('remote code ran')\n"
    for name in ("configuration", "modeling", "tokenization"):
        (folder / f"{name}_baichuan.py").write_text(code, encoding="utf-8")
    classes = {"AutoConfig": "configuration_baichuan.BaichuanConfig"}
    classes["AutoModelForCausalLM"] = "modeling_baichuan.BaichuanForCausalLM"
    _write_json(
        folder / "config.json",
        SIZES
        | {
            "architectures": ["BaichuanForCausalLM"],
            "auto_map": classes,
            "model_type": "baichuan",
            "tokenizer_class": "BaichuanTokenizer",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "vocab_size": 400,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            "use_cache": True,
            "z_loss_weight": 0,
        },
    )
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_eos_token": False,
            "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
            "tokenizer_class": "BaichuanTokenizer",
            "model_max_length": 4096,
            "sp_model_kwargs": {},
            "use_fast": False,
        },
    )
    _save_shards(folder, _baichuan2_weights(vocabulary=400))
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "baichuan": save_tiny_baichuan2,
    "bert": save_tiny_bert,
    "llama": save_tiny_llama,
    "qwen2": save_tiny_qwen2,
    "qwen3": save_tiny_qwen3,
}


def _save(folder: Path, kind: type[PreTrainedModel], config: object, scale: float = 1.0) -> Path:
    torch.manual_seed(1)
    model = kind(config)
    for name, values in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):  # their initial values (0 and 1) would hide mistakes
            values.data.add_(torch.randn_like(values) * 0.1)
        if name == "model.norm.weight":
            values.data.mul_(scale)
    model.save_pretrained(folder)
    return folder


def _byte_level_bpe(folder: Path) -> dict[str, int]:
    """Trains and saves a tokenizer of Qwen's kind; returns its vocab_size for the config."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    bpe.train_from_iterator(SENTENCES, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    state = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    Qwen2Tokenizer(vocab=state["vocab"], merges=merges).save_pretrained(folder)
    return {"vocab_size": bpe.get_vocab_size() + 4}


def _baichuan2_weights(vocabulary: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    width, inner = SIZES["hidden_size"], SIZES["intermediate_size"]

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=random) / columns**0.5

    def norm() -> torch.Tensor:
        return 1 + 0.1 * torch.randn(width, generator=random)

    weights = {"model.embed_tokens.weight": matrix(vocabulary, width)}
    for layer in range(SIZES["num_hidden_layers"]):
        weights |= {
            f"model.layers.{layer}.{name}": values
            for name, values in {
                "self_attn.W_pack.weight": matrix(3 * width, width),
                "self_attn.o_proj.weight": matrix(width, width),
                "mlp.gate_proj.weight": matrix(inner, width),
                "mlp.up_proj.weight": matrix(inner, width),
                "mlp.down_proj.weight": matrix(width, inner),
                "input_layernorm.weight": norm(),
                "post_attention_layernorm.weight": norm(),
            }.items()
        }
    return weights | {"model.norm.weight": norm(), "lm_head.weight": matrix(vocabulary, width)}


def _save_shards(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    names = sorted(weights)
    halves = {1: names[: len(names) // 2], 2: names[len(names) // 2 :]}
    places = {}
    for number, part in halves.items():
        shard = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(part, shard)
    total = sum(values.numel() * values.element_size() for values in weights.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")
