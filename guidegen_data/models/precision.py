"""The one place that decides where and in which precision the networks run."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn

from guidegen_data.errors import ModelError


def choose_device(name: str = "auto") -> torch.device:
    """'auto' takes CUDA, then MPS, then the CPU. Raises ModelError when the named device is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} is not available here; use --device auto or --device cpu.") from error
    return device


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("amx_tile")
        return torch.bfloat16 if native else torch.float32
    return torch.float32


def mixed_precision(device: torch.device, wanted: bool = True) -> contextlib.AbstractContextManager[Any]:
    """A context in which float32 networks multiply in bfloat16, where it is wanted and the device does so natively.

    Elsewhere it changes nothing: a CPU without such units takes many times as long for bfloat16 as for float32.
    """
    native = compute_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16) if wanted and native else contextlib.nullcontext()


def place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module on its device in its precision, weights laid out channels-last, ready for inference."""
    module = channels_last(nn.Module.to(module, device=device, dtype=dtype))
    return module.eval().requires_grad_(False)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; to a GPU from pinned memory, so that the copy waits for nothing that runs there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def channels_last(module: nn.Module) -> nn.Module:
    """The module with the weights of its convolutions laid out channels-last, in place."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
            nn.Module.to(child, memory_format=torch.channels_last)
        elif isinstance(child, nn.Conv3d | nn.ConvTranspose3d):
            nn.Module.to(child, memory_format=torch.channels_last_3d)
    return module


def contiguous(module: nn.Module) -> nn.Module:
    """A copy of the module with every weight laid out as files hold it."""
    return nn.Module.to(copy.deepcopy(module), memory_format=torch.contiguous_format)
