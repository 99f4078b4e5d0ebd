"""The device and the precision of a training."""

import torch

from models.contract.settings import TrainConfig


def uses_gpu(device: str) -> bool:
    """Whether `train.device` means a GPU on this machine."""
    return torch.cuda.is_available() if device == "auto" else device == "cuda"


def device_of(config: TrainConfig) -> torch.device:
    """The device that `train.device` means on this machine; under torchrun, the rank's own GPU."""
    return torch.device("cuda", torch.cuda.current_device()) if uses_gpu(config.device) else torch.device("cpu")


def uses_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether `train.precision` means bfloat16 autocast on this device; `auto`: on GPUs that support it."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
