"""Loading what makes the cases: which model, on which device, with how many threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from guidegen_data.errors import ModelError, ShardError
from guidegen_data.shards.manifest import Recipe
from guidegen_data.shards.plan import CaseGenerator, ReportSource

Load = Callable[[], CaseGenerator]
#: Cores that a worker on a CPU gets where their number is chosen for the user.
CORES_PER_WORKER = 2


def load_generator(model: str | Path, device: str) -> CaseGenerator:
    """The pipeline of that name or folder on that device. ModelError when there is none or it is damaged."""
    from diffusers.utils import logging

    from guidegen_data.pipeline import GuideGenPipeline

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # loading takes a second; the bar that counts is the one of cases
    logging.set_verbosity_error()  # diffusers warns of annotations that it cannot read
    try:
        return GuideGenPipeline.from_pretrained(model, device=device)
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def model_card(model: str | Path) -> str:
    """Text of the model's own card; '' when it has none."""
    from guidegen_data.models.folder import model_folder

    try:
        return (model_folder(model) / "README.md").read_text("utf-8")
    except (OSError, UnicodeDecodeError, ModelError):
        return ""


def device_kind(device: str) -> str:
    """'cpu' or 'cuda' for a device as the user gives it. ModelError when there is none such here."""
    from guidegen_data.models.precision import choose_device

    return choose_device(device).type


def worker_devices(device: str, kind: str, num_workers: int | None) -> list[str]:
    """The device of every worker process; None asks for as many as suit the machine.

    That is one for each GPU, or one for every two cores. More workers than GPUs share them in turns; a device with a
    number ('cuda:1') is used by all.
    """
    if kind != "cuda" or ":" in device:
        suited = 1 if kind != "cpu" else max(1, num_cores() // CORES_PER_WORKER)
        return [device] * (num_workers or suited)
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [gpus[worker % len(gpus)] for worker in range(num_workers or len(gpus))]


def prepare(recipe: Recipe, load: Load, num_threads: int) -> tuple[CaseGenerator, ReportSource]:
    """The generator and what it is asked for, in the process that computes. ShardError for another model's weights."""
    generator = load()
    check_fingerprint(generator, recipe)
    set_torch_threads(generator, num_threads)
    if recipe.compiled:
        generator.compile()  # type: ignore[attr-defined]
    return generator, ReportSource(recipe, generator.anatomy)


def arithmetic(generator: CaseGenerator) -> str:
    """'bfloat16' or 'float32': what the networks compute in, which a machine decides; '' where nobody knows."""
    return str(getattr(generator, "dtype", "")).removeprefix("torch.")


def check_fingerprint(generator: CaseGenerator, recipe: Recipe) -> None:
    """ShardError for another model than that of the recipe."""
    if generator.fingerprint != recipe.model_sha256:
        raise ShardError("the model changed while the run went on; put the first one back and run the command again.")


def set_torch_threads(generator: CaseGenerator, num_threads: int) -> None:
    """Let torch use its share of the cores, where the bytes do not depend on it.

    Arithmetic in bfloat16 gave the same bits on 1, 2 and 4 threads, float32 on a CPU did not (1e-6): there every worker
    has two threads, however many cores and workers there are.
    """
    if torch := sys.modules.get("torch"):  # a generator without torch need not wait for it
        pinned = getattr(generator, "dtype", None) == torch.float32
        torch.set_num_threads(2 if pinned else num_threads)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
