"""The one training loop: a generator that yields after every step, so that the caller logs, evaluates and saves.

A batch is a function of the step alone, and so is every random number of a step; a run that was killed and started
again therefore goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidegen_data.errors import ModelError


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast to train. `ema_decay` averages the weights that are saved; 0 switches the average off."""

    num_steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_learning_rate_ratio: float = 0.05
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float = 0.995
    save_every: int = 200
    seed: int = 0
    bf16: bool = True

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.batch_size < 1 or self.save_every < 1:
            raise ModelError("num_steps, batch_size and save_every must be at least 1.")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to `final_learning_rate_ratio` of the peak."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        floor = self.final_learning_rate_ratio
        progress = min(1.0, step / self.num_steps)
        return self.learning_rate * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Step:
    """What one step of training did."""

    number: int
    losses: dict[str, float]
    gradient_norm: float
    seconds: float


LossFn = Callable[[nn.Module, int, torch.Generator], dict[str, Tensor]]


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of every random number that step may use."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def fit(model: nn.Module, ema: nn.Module, loss_of: LossFn, config: FitConfig, run_dir: Path) -> Iterator[Step]:
    """Trains `model`, keeps its average in `ema`, and yields every step. Resumes from `run_dir` by itself.

    `loss_of(model, step, generator)` returns named losses, of which 'total' is minimised. Raises ModelError when the
    run folder belongs to another configuration, or when a loss is not finite.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )
    start = _resume(model, ema, optimizer, config, run_dir)
    model.train()
    for number in range(start, config.num_steps):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(number)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            losses = loss_of(model, number, step_generator(config.seed, number))
        if not torch.isfinite(losses["total"]):
            raise ModelError(f"the loss is {losses['total'].item()} at step {number}; lower the learning rate.")
        losses["total"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _average(model, ema, min(config.ema_decay, (1 + number) / (10 + number)))
        step = Step(
            number, {k: float(v.detach()) for k, v in losses.items()}, float(norm.detach()), time.perf_counter() - began
        )
        _log(run_dir, step)
        if (number + 1) % config.save_every == 0 or number + 1 == config.num_steps:
            save_state(model, ema, optimizer, number + 1, config, run_dir)
        yield step


@torch.no_grad()
def _average(model: nn.Module, ema: nn.Module, decay: float) -> None:
    averages, values = list(ema.parameters()), [p.detach() for p in model.parameters()]
    torch._foreach_lerp_(averages, values, 1 - decay)
    for kept, now in zip(ema.buffers(), model.buffers(), strict=True):
        kept.copy_(now)


def save_state(
    model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, step: int, config: FitConfig, run_dir: Path
) -> None:
    """Writes everything a resumed run needs to `run_dir/state.pt`, whole or not at all."""
    state: dict[str, Any] = {
        "step": step,
        "config": asdict(config),
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    part = run_dir / "state.pt.part"
    torch.save(state, part)
    os.replace(part, run_dir / "state.pt")


def _resume(
    model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, config: FitConfig, run_dir: Path
) -> int:
    path = run_dir / "state.pt"
    if not path.exists():
        ema.load_state_dict(model.state_dict())
        (run_dir / "config.json").write_text(json.dumps(asdict(config), indent=1))
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["config"] != asdict(config):
            raise ModelError(
                f"{run_dir} was started with another configuration ({run_dir / 'config.json'}); "
                f"use the same one, or another run folder."
            )
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
    except (RuntimeError, KeyError, EOFError, OSError) as error:
        raise ModelError(f"{path} does not fit this model or is damaged; choose another run folder.") from error
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _log(run_dir: Path, step: Step) -> None:
    line = {"step": step.number, **{k: round(v, 6) for k, v in step.losses.items()}}
    line |= {"gradient_norm": round(step.gradient_norm, 4), "seconds": round(step.seconds, 3)}
    with open(run_dir / "log.jsonl", "a") as log:
        log.write(json.dumps(line) + "\n")
