"""The one training loop: a generator that yields after every step, so that the caller shows and saves.

A batch is a function of the step alone, and so is every random number of a step; a run that was killed and started
again therefore goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from guidegen_data.errors import ModelError
from guidegen_data.models.precision import mixed_precision
from guidegen_data.training.parallel import Parallel
from guidegen_data.training.run_state import cut_log, log_line, resume, save_state


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast to train. `ema_decay` averages the weights that are saved; 0 switches the average off.

    A step takes `accumulate` batches of `batch_size`. The average is validated every `validate_every` steps (0: never);
    after `patience` validations without a better total the run stops (0: it does not). `bf16`: products in bfloat16
    where the device has units for them, in float32 elsewhere.
    """

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
    accumulate: int = 1
    validate_every: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        if min(self.num_steps, self.batch_size, self.save_every, self.accumulate) < 1:
            raise ModelError("num_steps, batch_size, save_every and accumulate must be at least 1.")
        if min(self.validate_every, self.patience) < 0 or (self.patience and not self.validate_every):
            raise ModelError("validate_every and patience must not be negative, and patience needs validate_every.")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to `final_learning_rate_ratio` of the peak."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        floor = self.final_learning_rate_ratio
        progress = min(1.0, step / self.num_steps)
        return self.learning_rate * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Step:
    """What one step of training did; `validation` holds the figures of the average when it was validated here."""

    number: int
    losses: dict[str, float]
    gradient_norm: float
    seconds: float
    validation: dict[str, float] | None = None
    best: bool = False
    saved: bool = False
    stopped: bool = False


@dataclass
class Progress:
    """Steps done, the best validated total, and how many validations since then were no better."""

    step: int = 0
    best: float = math.inf
    stale: int = 0


_LOG, _VALIDATION_LOG = "log.jsonl", "validation.jsonl"

LossFn = Callable[[nn.Module, int, torch.Generator], dict[str, Tensor]]
ValidateFn = Callable[[nn.Module], dict[str, float]]


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of every random number that step may use."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def fit(
    model: nn.Module,
    ema: nn.Module,
    loss_of: LossFn,
    config: FitConfig,
    run_dir: Path,
    validate: ValidateFn | None = None,
    parallel: Parallel | None = None,
) -> Iterator[Step]:
    """Trains `model`, keeps its average in `ema`, and yields every step. Resumes from `run_dir` by itself.

    The state of a step marked `saved` is written when the next step is asked for: what the caller keeps of it is on
    disk before.

    `loss_of(model, step, generator)` returns named losses, of which 'total' is minimised; `validate(ema)` returns
    figures, of which 'total' is the one that counts. Raises ModelError when the run folder belongs to another
    configuration, a loss is not finite, or memory runs out.
    """
    parallel = parallel or Parallel()
    run_dir.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )
    progress = Progress()
    resume(model, ema, optimizer, progress, config, run_dir)
    if parallel.is_main:
        for name in (_LOG, _VALIDATION_LOG):
            cut_log(run_dir, name, progress.step)
    loss_module = parallel.wrap(model, loss_of)
    model.train()
    while progress.step < config.num_steps and not _is_stale(progress, config):
        began, number = time.perf_counter(), progress.step
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(number)
        with out_of_memory_told(device, config):
            losses = _gradients(loss_module, number, config, device, parallel)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _average(model, ema, min(config.ema_decay, (1 + number) / (10 + number)))
        progress.step += 1
        figures, best = None, False
        if validate is not None and config.validate_every and progress.step % config.validate_every == 0:
            with out_of_memory_told(device, config):
                figures = validate(ema)
            best = figures["total"] < progress.best
            progress.best, progress.stale = (figures["total"], 0) if best else (progress.best, progress.stale + 1)
        stopped = _is_stale(progress, config)
        saved = progress.step % config.save_every == 0 or progress.step == config.num_steps or best or stopped
        step = Step(number, losses, float(norm.detach()), time.perf_counter() - began, figures, best, saved, stopped)
        if parallel.is_main:
            _log(run_dir, step)
        yield step
        # After the caller kept its weights: a run killed in between does the step again, and loses none of them.
        if parallel.is_main and saved:
            save_state(model, ema, optimizer, progress, config, run_dir)


def _is_stale(progress: Progress, config: FitConfig) -> bool:
    return bool(config.patience) and progress.stale >= config.patience


def _gradients(
    loss_module: nn.Module, number: int, config: FitConfig, device: torch.device, parallel: Parallel
) -> dict[str, float]:
    """Adds up the gradients of all batches of a step; its losses, averaged."""
    sums: dict[str, float] = {}
    for part in range(config.accumulate):
        index = (number * config.accumulate + part) * parallel.num_processes + parallel.rank
        with (
            parallel.synchronised(loss_module, last=part + 1 == config.accumulate),
            mixed_precision(device, config.bf16),
        ):
            losses = loss_module(index, step_generator(config.seed, index))
            if not torch.isfinite(losses["total"]):
                raise ModelError(f"the loss is {losses['total'].item()} at step {number}; lower the learning rate.")
            (losses["total"] / config.accumulate).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / config.accumulate
    return sums


@torch.no_grad()
def _average(model: nn.Module, ema: nn.Module, decay: float) -> None:
    averages, values = list(ema.parameters()), [p.detach() for p in model.parameters()]
    torch._foreach_lerp_(averages, values, 1 - decay)
    for kept, now in zip(ema.buffers(), model.buffers(), strict=True):
        kept.copy_(now)


class out_of_memory_told:
    """Turns running out of memory into the sentence that helps."""

    def __init__(self, device: torch.device, config: FitConfig) -> None:
        self.device, self.config = device, config

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        told = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and any(w in str(error) for w in ("out of memory", "can't allocate memory"))
        )
        if told:
            raise ModelError(f"a step needs more memory than {self.device} has: {self._advice()}") from error

    def _advice(self) -> str:
        size, parts = self.config.batch_size, self.config.accumulate
        if size == 1:
            return "the batch is one example already, so take a smaller recipe."
        smaller = next(n for n in range(size // 2, 0, -1) if size % n == 0)
        return (
            f"take smaller batches and more of them, which is the same step "
            f"(--batch-size {smaller} --accumulate {parts * size // smaller}), or a smaller recipe."
        )


def _log(run_dir: Path, step: Step) -> None:
    line = {"step": step.number, **{k: round(v, 6) for k, v in step.losses.items()}}
    line |= {"gradient_norm": round(step.gradient_norm, 4), "seconds": round(step.seconds, 3)}
    log_line(run_dir, _LOG, line)
    if step.validation is not None:
        figures = {k: round(v, 6) for k, v in step.validation.items()}
        log_line(run_dir, _VALIDATION_LOG, {"step": step.number, **figures, "best": step.best})
