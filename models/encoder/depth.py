"""How deep an encoder reads: one that stops behind a layer has neither the later ones nor the norm at the model's end.

Layers are counted as transformers' `hidden_states` has them: state 0 are the token embeddings, state k is what layer k
gives. Of decoders, the last state, and that alone, has been through the norm at the end.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.contract.failures import BadInput

_PLACES = ("layers", "encoder.layer")  # Llama, Qwen, Baichuan; BERT and its kin
_LAST_NORM = "norm"
_PROBE = (1, 2, 3)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The layers, first to last.

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
    """Takes away all behind a layer that is not the last, in place: what stays gives that layer's states as its last.

    Raises:
        BadInput: it does not give what the whole model's layer gives, so the family cannot be left early.
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
    """Of a few tokens, the hidden states as transformers gives them."""
    ids = torch.tensor([_PROBE], device=model.device)
    read = model.eval()(input_ids=ids, output_hidden_states=True, use_cache=False)
    return [state.float() for state in read.hidden_states]
