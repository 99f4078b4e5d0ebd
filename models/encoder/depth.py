"""Cuts an encoder off after a layer: the later layers and the final norm are removed.

Layers are counted as in transformers' `hidden_states`: state 0 holds the token embeddings, state k the output of layer
k. In decoders only the last state has passed through the final norm.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.contract.failures import BadInput

_PLACES = ("layers", "encoder.layer")  # Llama, Qwen, Baichuan; BERT and its relatives
_LAST_NORM = "norm"
_PROBE = (1, 2, 3)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The model's layers, first to last.

    Raises:
        BadInput: they are not where the known families have them.
    """
    for place in _PLACES:
        try:
            layers = model.get_submodule(place)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return layers
    raise BadInput(f"a model of type {model.config.model_type} has its layers elsewhere: leave the layer out")


def stop_after(model: PreTrainedModel, layer: int) -> None:
    """Removes everything after a layer (not the last one) in place, so that the layer's states become the output.

    Raises:
        BadInput: the shortened model's output differs from the whole model's states at that layer, so models of this
            family cannot be cut off.
    """
    layers = layers_of(model)
    expected = _states(model)[layer]
    del layers[layer:]
    if isinstance(getattr(model, _LAST_NORM, None), nn.Module):
        setattr(model, _LAST_NORM, nn.Identity())
    model.config.num_hidden_layers = layer
    if types := getattr(model.config, "layer_types", None):
        model.config.layer_types = types[:layer]
    if not torch.allclose(_states(model)[-1], expected, rtol=1e-3, atol=1e-3):
        raise BadInput(f"a model of type {model.config.model_type} cannot be left after a layer: leave the layer out")


@torch.inference_mode()
def _states(model: PreTrainedModel) -> list[Tensor]:
    """transformers' hidden states for a few tokens."""
    ids = torch.tensor([_PROBE], device=model.device)
    read = model.eval()(input_ids=ids, output_hidden_states=True, use_cache=False)
    return [state.float() for state in read.hidden_states]
