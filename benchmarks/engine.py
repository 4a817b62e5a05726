"""What precision, memory layout and compilation are worth here: python -m benchmarks.engine [--repeats 9]

Both networks of a model run on one example of their own size: in float32 and bfloat16, with weights laid out as files
hold them and channels-last, as they are and compiled by `torch.compile` (its first call, compilation included, apart).
The settings alternate. What bfloat16 changes is measured on a whole case: voxels of the label map that differ, and HU
of a CT drawn for one label map with the same noise.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.record import IMAGE_PARTS, save, weights
from benchmarks.throughput import FINDINGS
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.models.folder import model_folder
from guidegen_data.models.precision import channels_last, contiguous
from guidegen_data.pipeline import GuideGenPipeline

_LANES = 2  # slices that run side by side in the torso's staggered schedule


def slice_inputs(model: nn.Module, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Arguments of the slice generator for as many slices as run side by side."""
    c, m = model.config.latent_channels, model.config.mask_features
    x, mask = torch.randn(_LANES, c, 32, 32).to(dtype), torch.randn(_LANES, m, 32, 32).to(dtype)
    tokens = torch.randn(_LANES, 96, model.config.token_size).to(dtype)
    return x, torch.full((_LANES,), 0.5), mask, x.clone(), torch.full((_LANES,), 0.1), tokens


def mask_call(pipe: GuideGenPipeline, model: nn.Module) -> Callable[[], Tensor]:
    """One call of the mask sampler's network as stage 1 makes it."""
    condition = pipe.condition([FINDINGS], [0])
    x_t = torch.randint(model.config.num_classes, (1, *model.config.shape))
    return lambda: model(x_t, torch.tensor([0.5]), torch.tensor([0.5]), condition)


def calls(pipe: GuideGenPipeline) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Every setting of both networks, by name."""
    found: dict[str, dict[str, Callable[[], Tensor]]] = {"slice generator": {}, "mask sampler": {}}
    for dtype, layout, compiled in itertools.product(
        (torch.float32, torch.bfloat16), (contiguous, channels_last), (False, True)
    ):
        how = f"{str(dtype).removeprefix('torch.')}, {layout.__name__.replace('_', '-')}"
        how += ", compiled" if compiled else ""
        slices = layout(copy.deepcopy(pipe.slice_generator).to(dtype))
        masks = layout(copy.deepcopy(pipe.mask_sampler).to(dtype))
        inputs = slice_inputs(slices, dtype)
        run_slices, run_masks = slices.forward, mask_call(pipe, masks)
        if compiled:
            run_slices, run_masks = torch.compile(run_slices), torch.compile(run_masks)
        found["slice generator"][how] = lambda run=run_slices, inputs=inputs: run(*inputs)  # type: ignore[misc]
        found["mask sampler"][how] = run_masks
    return found


def timed(settings: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, Any]:
    """Milliseconds a call, median of alternating repeats, and seconds of the first call."""
    first: dict[str, float] = {}
    laps: dict[str, list[float]] = {name: [] for name in settings}
    for name, call in settings.items():
        began = time.perf_counter()
        call()
        first[name] = time.perf_counter() - began
        call()
    for _, (name, call) in itertools.product(range(repeats), settings.items()):
        began = time.perf_counter()
        call()
        laps[name].append(time.perf_counter() - began)
    return {
        name: {"ms": round(1000 * statistics.median(v), 2), "first_call_s": round(first[name], 2)}
        for name, v in laps.items()
    }


def error(pipe: GuideGenPipeline) -> dict[str, float]:
    """What the networks' own precision changes against float32 in one case."""
    plain = GuideGenPipeline.from_pretrained("torso")
    for name in ("mask_sampler", "autoencoder", "slice_generator"):
        part = type(getattr(plain, name)).from_pretrained(model_folder("torso") / name, use_safetensors=True)
        plain.register_modules(**{name: nn.Module.to(part, dtype=torch.float32).eval()})
    made = {}
    (label_map, _), *_ = pipe.label_maps([FINDINGS], [torch.Generator().manual_seed(0)], [0])
    for name, each in (("own", pipe), ("exact", plain)):
        maps = each.label_maps([FINDINGS], [torch.Generator().manual_seed(0)], [0])[0][0]
        ct = each.sample_cts(
            torch.from_numpy(label_map)[None], each.encode([FINDINGS.prompt()]), [torch.Generator().manual_seed(1)]
        )
        made[name] = maps, ct[0].numpy().astype(np.int32)
    body = label_map > 0
    apart = np.abs(made["own"][1] - made["exact"][1])[body]
    shift = np.mean(made["own"][1][body] - made["exact"][1][body])
    return {
        "label_voxels_that_differ": round(float((made["own"][0] != made["exact"][0]).mean()), 5),
        "mean_absolute_difference_hu": round(float(apart.mean()), 2),
        "mean_difference_hu": round(float(shift), 2),
    }


def main() -> None:
    """Measures and writes results/engine.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained("torso")
    with torch.inference_mode():
        figures: dict[str, Any] = {name: timed(settings, args.repeats) for name, settings in calls(pipe).items()}
        own = str(next(pipe.slice_generator.parameters()).dtype).removeprefix("torch.")
        figures["against_float32"] = {"precision": own, **error(pipe)}
    save("engine", {**figures, **weights("torso", IMAGE_PARTS)}, seed=0)


if __name__ == "__main__":
    main()
