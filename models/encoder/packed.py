"""Linear layers that run through oneDNN on a CPU, with weights in oneDNN's packed layout.

torch's own fp32 product uses MKL, which reached less than half of oneDNN's rate on an AMD processor
(docs/decisions/0006-encoder.md). Only the order of summation differs.
"""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A frozen `nn.Linear` with its weight in oneDNN's packed layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """[…, in] to […, out]."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, "none", [], "")


def pack_linears(model: nn.Module) -> None:
    """Replaces the model's linear layers, in place and for inference, if oneDNN supports their dtype."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and _is_packable(child.weight):
                setattr(module, name, PackedLinear(child))


def _is_packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32
