"""The folder of a training run: its configuration, its log, and the state from which it goes on exactly."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from guidegen_data.errors import ModelError

if TYPE_CHECKING:
    from guidegen_data.training.fit import FitConfig, Progress


def save_state(
    model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, config: FitConfig, run: Path
) -> None:
    """Writes everything a resumed run needs to `run/state.pt`, whole or not at all."""
    state: dict[str, Any] = {
        "step": progress.step,
        "best": progress.best,
        "stale": progress.stale,
        "config": asdict(config),
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    part = run / "state.pt.part"
    torch.save(state, part)
    os.replace(part, run / "state.pt")


def has_state(run: Path) -> bool:
    """Whether a run was trained: what its folder says of data and label table is then of these weights, and stands."""
    return (run / "state.pt").exists()


def resume(
    model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, config: FitConfig, run: Path
) -> None:
    """Fills model, average, optimizer and progress from the folder, or writes its configuration when it is new.

    Raises ModelError when the folder belongs to another configuration or model, or is damaged.
    """
    path = run / "state.pt"
    if not has_state(run):
        ema.load_state_dict(model.state_dict())
        (run / "config.json").write_text(json.dumps(asdict(config), indent=1))
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # A run that was started before an entry existed had its default.
        defaults = asdict(type(config)())
        if defaults | state["config"] != asdict(config):
            raise ModelError(
                f"{run} was started with another configuration ({run / 'config.json'}); "
                f"use the same one, or another run folder."
            )
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, KeyError, EOFError, OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} does not fit this model or is damaged; choose another run folder.") from error
    progress.step = int(state["step"])
    progress.best = float(state.get("best", float("inf")))
    progress.stale = int(state.get("stale", 0))


def log_line(run: Path, name: str, line: dict[str, Any]) -> None:
    """Appends one JSON line to a log of the run."""
    with open(run / name, "a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def cut_log(run: Path, name: str, step: int) -> None:
    """Drops the lines of steps that a killed run did after its last state, and a line it did not finish."""
    path = run / name
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) < step]
    part = path.with_name(name + ".part")
    part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(part, path)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def best_or_last(run: Path) -> Path:
    """The folder of a run's weights: the best validated ones where it was validated, else the last."""
    return run / "best" if (run / "best" / "config.json").exists() else run / "model"


def load_part(kind: type, folder: Path):
    """One trained network from a run's `model` folder. ModelError when it is missing or damaged."""
    try:
        return kind.from_pretrained(folder, use_safetensors=True).eval()  # type: ignore[attr-defined]
    except Exception as error:
        raise ModelError(f"{folder} holds no trained {kind.__name__}; train that stage first.") from error
