"""Where training runs: one device, or several GPUs and nodes by way of accelerate (`accelerate launch`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guidegen_data.models.precision import choose_device

LossFn = Callable[[nn.Module, int, torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Parallel:
    """The process that trains: its rank among `num_processes`, and the accelerator that averages their gradients."""

    rank: int = 0
    num_processes: int = 1
    accelerator: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module, loss_of: LossFn) -> nn.Module:
        """The loss as one module: gradients are averaged over processes for whatever runs inside its forward pass."""
        loss = LossModule(model, loss_of)
        return loss if self.accelerator is None else self.accelerator.prepare(loss)

    def first(self) -> contextlib.AbstractContextManager:
        """The first process goes ahead, so that the others find what it wrote."""
        return contextlib.nullcontext() if self.accelerator is None else self.accelerator.main_process_first()

    def synchronised(self, module: nn.Module, last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged in the last batch of a step only."""
        return contextlib.nullcontext() if last or self.accelerator is None else self.accelerator.no_sync(module)


class LossModule(nn.Module):
    """loss_of(model, index, generator) as a forward pass."""

    def __init__(self, model: nn.Module, loss_of: LossFn) -> None:
        super().__init__()
        self.model, self.loss_of = model, loss_of

    def forward(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        return self.loss_of(self.model, index, generator)


def join(device: str) -> tuple[Parallel, torch.device]:
    """This process among those that `accelerate launch` or torchrun started, and its device; alone otherwise.

    Raises ModelError when the device is not there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Parallel(), choose_device(device)
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu")
    return Parallel(accelerator.process_index, accelerator.num_processes, accelerator), accelerator.device
