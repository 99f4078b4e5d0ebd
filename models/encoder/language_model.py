"""A frozen causal language model with trained low-rank adapters, by peft.

Shapes: N tokens of all sequences, D the model's width; b sequences of a group, padded to length l.
"""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from models.contract.failures import BadInput
from models.contract.language_models import LanguageModelConfig, LoraConfig
from models.contract.model_folder import content_digest, locate
from models.encoder.pretrained import DTYPES, is_causal, load_causal_lm, load_pretrained, longest_input
from models.layers.packing import Packing


class LanguageModel(nn.Module):
    """A language model, with adapters if the config asks for them. Only the adapters are trained.

    The state dict holds only the adapters: frozen weights are neither saved with a model nor checkpointed.

    Args:
        config: which model.
        has_head: whether to load the output layer, which likelihoods need and hidden states do not.

    Attributes:
        model: the transformers model.
        tokenizer: see `models.encoder.tokens.Tokenizer`.
        config: the given config with the digest of the loaded files.
        width: D.
        longest: the number of positions that the model has.

    Raises:
        BadInput: the folder cannot be loaded, its files differ from the config's digest, the model is not a causal
            decoder, or peft is missing.
    """

    def __init__(self, config: LanguageModelConfig, has_head: bool = False) -> None:
        super().__init__()
        folder = locate(config.model, config.revision)
        digest = content_digest(folder)
        if config.digest not in (None, digest):
            raise BadInput(f"language model {config.model}: its files are not those that this model was trained on")
        load = load_causal_lm if has_head else load_pretrained
        model, self.tokenizer = load(folder, DTYPES[config.dtype])
        if not is_causal(model):
            raise BadInput(f"language model {config.model} is a {model.config.model_type}, not a causal decoder")
        model.config.use_cache = False
        self.config = config.model_copy(update={"digest": digest})
        self.width, self.longest = int(model.config.hidden_size), longest_input(model)
        self.model = model.requires_grad_(False) if config.lora is None else with_adapters(model, config.lora)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        self._frozen = frozenset(name for name, weight in self.named_parameters() if not weight.requires_grad)
        self.register_state_dict_post_hook(_without_frozen)
        self.register_load_state_dict_pre_hook(_with_frozen)


class LanguageTower(LanguageModel):
    """A language model in place of the user tower's transformer. Its own token embeddings are not used."""

    def forward(self, x_ND: Tensor, packing: Packing) -> Tensor:
        """The last hidden states of packed sequences, float32 [N, D].

        Padding comes after a sequence's end, where no real position attends to it.
        """
        groups = packing.groups(x_ND.to(self.model.dtype))
        states = [self.model(inputs_embeds=group_blD, use_cache=False).last_hidden_state for group_blD in groups]
        return packing.ungrouped(states).float()


def with_adapters(model: PreTrainedModel, config: LoraConfig) -> PreTrainedModel:
    """Adds adapters to the model, in place, as its only trainable weights; returns it.

    Raises:
        BadInput: peft is not installed, or the model has none of the named layers.
    """
    try:
        import peft
    except ImportError:
        raise BadInput("adapters need peft: pip install 'learn-spark[llm]'") from None
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] - only ever divided
        lora_dropout=config.dropout,
        target_modules=list(config.targets) if config.targets else "all-linear",
    )
    try:
        adapted = cast(PreTrainedModel, peft.inject_adapter_in_model(settings, model))  # the same object
    except ValueError as error:
        raise BadInput(f"llm.lora.targets {list(config.targets or ())}: {' '.join(str(error).split())}") from None
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return adapted


def _without_frozen(module: LanguageModel, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    for name in module._frozen:
        state.pop(prefix + name, None)


def _with_frozen(module: LanguageModel, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:  # noqa: ANN401
    weights: Mapping[str, Tensor] = dict(module.named_parameters())
    state.update({prefix + name: weights[name] for name in module._frozen})
