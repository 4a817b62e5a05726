"""One slice at a time, or slabs? python -m benchmarks.slabs TRAIN PREPARED --work DIR [--minutes 10] [--num 6]

A slice generator of the default size is trained from scratch for slabs of 1, 2 and 4 slices, each for the same CPU time
on batches of as many slabs: a slab is drawn at once, given its own label slices, one more at each end, and the slab
below it. Each then draws CTs for the label maps of PREPARED, told the HU of the case's own CT and held to nothing, one
slab after the other and staggered by one step; they are compared with these CTs as `benchmarks.ct_quality` does, and
the differences of neighbouring slices where slabs meet with those within slabs. TRAIN and PREPARED are folders of
`guidegen prepare` with different seeds. Can be stopped and started again; what was trained lies in DIR.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.ct_quality import Comparison, own_hu
from benchmarks.record import save, weights
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.models.hu_prior import HU_CHANNELS
from guidegen_data.models.sampling_ct import decode_slices, sample_slices
from guidegen_data.models.slice_generator import SliceGenerator, label_slab, slice_loss
from guidegen_data.models.text import TextEncoder
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import case_paths, load_case, training_folder
from guidegen_data.training.fit import FitConfig, fit
from guidegen_data.training.latents import LatentData, load_latent_data

_BATCH, _CHANNELS, _MASK_FEATURES, _WARM = 24, 8, 24, 4


def slab_generator(slices: int, num_classes: int) -> SliceGenerator:
    """A slice generator whose latents are those of `slices` neighbours, one after the other in its channels."""
    torch.manual_seed(0)
    model = SliceGenerator(num_classes, slices * _CHANNELS, mask_features=slices * _MASK_FEATURES, organ_hu=True)
    first = model.mask_encoder[0]
    planes = (slices + 2) * (num_classes + HU_CHANNELS)
    model.mask_encoder[0] = nn.Conv2d(planes, first.out_channels, 3, stride=2, padding=1)
    return model


def slab_batch(data: LatentData, slices: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random slabs as the arguments of `slice_loss`; one in twelve is taken as the first of its volume."""
    count, depth = data.latents.shape[:2]
    n = torch.randint(count, (_BATCH,), generator=generator)
    z = torch.randint(depth - slices + 1, (_BATCH,), generator=generator)
    first = (torch.rand(_BATCH, generator=generator) < 1 / 12) | (z < slices)
    own = z[:, None] + torch.arange(slices)
    near = (z[:, None] + torch.arange(-1, slices + 1)).clamp(0, depth - 1)
    return {
        "latents": data.latents[n[:, None], own].flatten(1, 2).float(),
        "previous": data.latents[n[:, None], (own - slices).clamp(min=0)].flatten(1, 2).float(),
        "has_previous": ~first,
        "labels": data.labels[n[:, None], :, :, near],
        "tokens": data.tokens[n, 0].float(),
        "class_hu": data.class_hu[n],
    }


def trained(
    slices: int, data: LatentData, num_classes: int, minutes: float, run_dir: Path
) -> tuple[SliceGenerator, int]:
    """The average of a generator after so many CPU minutes, and its steps."""

    def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return slice_loss(model, **slab_batch(data, slices, generator), generator=generator)

    def run(num_steps: int, folder: Path) -> tuple[SliceGenerator, float]:
        model = slab_generator(slices, num_classes)
        ema = copy.deepcopy(model).requires_grad_(False)
        config = FitConfig(num_steps, _BATCH, learning_rate=1.5e-3, warmup_steps=50, ema_decay=0.99, save_every=50)
        began, seen = time.process_time(), 0
        for step in tqdm(
            fit(model, ema, loss_of, config, folder), total=num_steps, desc=f"slab {slices}", disable=None
        ):
            seen += 1
            began = time.process_time() if seen == 1 else began
            del step
        return ema.eval(), (time.process_time() - began) / max(1, seen - 1)

    run_dir.mkdir(parents=True, exist_ok=True)
    held = run_dir / "steps.json"
    if not held.exists():
        with tempfile.TemporaryDirectory() as folder:
            _, seconds = run(_WARM, Path(folder))
        held.write_text(json.dumps(max(_WARM, int(60 * minutes / seconds))))
    num_steps = int(json.loads(held.read_text()))
    return run(num_steps, run_dir)[0], num_steps


def draw(
    model: SliceGenerator, pipe: GuideGenPipeline, case: TrainingCase, slices: int, steps: int, delay: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A CT (X, Y, Z) in HU for the case's label map, and the HU (K,) that were told."""
    labels, generator = torch.from_numpy(case.label_map)[None], torch.Generator().manual_seed(seed)
    told = pipe.organ_hu([case.findings.phase], [generator], own_hu(case, pipe))
    assert told is not None
    hu = told[:, : pipe.anatomy.num_classes]
    x, y, depth = labels.shape[1:]
    shape = (1, depth // slices, slices * _CHANNELS, x // 4, y // 4)
    start, blur = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)

    def mask_of(s: int) -> Tensor:
        return model.encode_mask(label_slab(labels, s * slices, slices), hu)

    tokens = pipe.encode([case.findings.prompt()])
    slabs = sample_slices(model, pipe.slice_scheduler, mask_of, start, blur, tokens, steps, delay=delay)
    latents = torch.stack(list(slabs), dim=1).unflatten(2, (slices, _CHANNELS)).flatten(1, 2)
    return decode_slices(pipe.autoencoder, latents, labels)[0].numpy(), hu[0].numpy()


def seams(ct_hu: np.ndarray, label_map: np.ndarray, every: int = 4) -> float:
    """Mean |difference| inside labels across every fourth border of slices, where all slabs meet, over that across the
    others."""
    both = (label_map[..., 1:] > 0) & (label_map[..., :-1] == label_map[..., 1:])
    step = np.abs(np.diff(ct_hu.astype(np.float32), axis=2))
    meets = np.arange(1, ct_hu.shape[2]) % every == 0
    return float(step[..., meets][both[..., meets]].mean() / step[..., ~meets][both[..., ~meets]].mean())


def main() -> None:
    """Trains, measures and writes results/slabs.json after every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="folder of `guidegen prepare` to train on")
    parser.add_argument("prepared", type=Path, help="another one to compare with")
    parser.add_argument("--work", type=Path, required=True, help="where runs and latents are kept")
    parser.add_argument("--slices", type=int, nargs="*", choices=(1, 2, 4), default=[1, 2, 4], help="of a slab")
    parser.add_argument("--minutes", type=float, default=10, help="CPU time of each training")
    parser.add_argument("--steps", type=int, default=3, help="of the sampler")
    parser.add_argument("--num", type=int, default=6)
    parser.add_argument("--seed", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained("torso")
    args.work.mkdir(parents=True, exist_ok=True)
    cache, names = args.work / "latents.pt", [c.name for c in pipe.anatomy.classes[1:]]
    data = load_latent_data(training_folder(args.train), pipe.anatomy, pipe.autoencoder, TextEncoder(), cache, True)
    cases = [c for c in map(load_case, case_paths(args.prepared)) if c.ct_hu is not None][: args.num]
    settings: dict[str, Any] = {}
    for slices in args.slices:
        run_dir = args.work / f"slab-{slices}"
        network, num_steps = trained(slices, data, pipe.anatomy.num_classes, args.minutes, run_dir)
        network = network.to(pipe.slice_generator.dtype)
        for delay in (args.steps, 1):
            comparison, seconds, met = Comparison(), 0.0, []
            make = partial(draw, network, pipe, slices=slices, steps=args.steps, delay=delay)
            for i, case in enumerate(tqdm(cases, desc=f"slab {slices}, delay {delay}", disable=None)):
                began = time.process_time()
                made, told = make(case=case, seed=args.seed + i)
                seconds += time.process_time() - began
                comparison.add(case, made, told, pipe)
                met.append((seams(made, case.label_map), seams(np.asarray(case.ct_hu), case.label_map)))
            made_seam, real_seam = np.mean(met, axis=0)
            settings[f"slabs of {slices}, delay {delay}"] = {
                "training_steps": num_steps,
                "cpu_seconds_a_ct": round(seconds / len(cases), 2),
                "differences_every_fourth_slice_over_others": round(float(made_seam), 3),
                "the_same_in_real_cts": round(float(real_seam), 3),
                **comparison.figures(names),
            }
            print(json.dumps({k: v for k, v in settings.items()}), flush=True)
        figures = {"num": len(cases), "minutes": args.minutes, "steps": args.steps, "settings": settings}
        save("slabs", {**figures, **weights("torso", ("autoencoder",))}, seed=args.seed)


if __name__ == "__main__":
    main()
