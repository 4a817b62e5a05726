"""Seconds for one 128^3 CT: ours, MAISI's networks as MONAI ships them, TorchIO. python -m benchmarks.maisi --repeats 1

All get a label map and make the CT from it, alternating on the same processor in one run. Ours runs in bf16 where the
processor has it; MAISI's networks do not (average pooling and control net refuse it there) and run in fp32. MAISI means
AutoencoderKlMaisi, DiffusionModelUNetMaisi and ControlNetMaisi in the published rectified-flow configuration (Guo et
al. 2024), 30 steps, no weights: they do not matter for time. It makes no label map here; ours is timed with and without
stage 1. TorchIO means its RandomLabelsToImage with bias field and blur: random texture, which imitates no CT.
"""

from __future__ import annotations

import argparse
import gc
import resource
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.downstream_synthseg import random_texture
from benchmarks.record import save
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.findings import Findings, Lesion

_SHAPE, _STEPS = (128, 128, 128), 30
_NAMES = ("ours, CT alone", "ours, whole pair", "MAISI, CT alone", "TorchIO, CT alone")
_WIDTHS = {
    "spatial_dims": 3,
    "in_channels": 4,
    "num_channels": [64, 128, 256, 512],
    "attention_levels": [False, False, True, True],
    "num_head_channels": [0, 0, 32, 32],
    "num_res_blocks": 2,
    "use_flash_attention": torch.cuda.is_available(),
    "resblock_updown": True,
    "num_class_embeds": 128,
}


class Maisi(nn.Module):
    """MAISI's three networks around one call: a label map in, HU out."""

    def __init__(self) -> None:
        super().__init__()
        from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
        from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
        from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

        self.autoencoder = AutoencoderKlMaisi(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            latent_channels=4,
            num_channels=[64, 128, 256],
            num_res_blocks=[2, 2, 2],
            norm_num_groups=32,
            attention_levels=[False, False, False],
            num_splits=8,
            dim_split=1,
            norm_float16=False,
        )
        self.unet = DiffusionModelUNetMaisi(out_channels=4, include_spacing_input=True, **_WIDTHS)
        self.controlnet = ControlNetMaisi(
            conditioning_embedding_in_channels=8,
            conditioning_embedding_num_channels=[8, 32, 64],
            use_checkpointing=False,
            **_WIDTHS,
        )

    @torch.inference_mode()
    def forward(self, label_map: torch.Tensor) -> torch.Tensor:
        """(1, 1, X, Y, Z) from a label map (X, Y, Z): its bits are the eight conditioning channels, as MAISI does."""
        from monai.networks.schedulers import RFlowScheduler

        bits = torch.stack([(label_map >> k) & 1 for k in range(8)]).unsqueeze(0).to(next(self.parameters()))
        scheduler = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True)
        latent = torch.randn(1, 4, *(n // 4 for n in _SHAPE)).to(bits)
        scheduler.set_timesteps(_STEPS, input_img_size_numel=latent[0, 0].numel())
        following = torch.cat([scheduler.timesteps[1:], torch.zeros(1)])
        modality, spacing = torch.ones(1, dtype=torch.long), torch.full((1, 3), 300.0).to(bits)
        for t, s in zip(scheduler.timesteps, following, strict=True):
            time_now = torch.as_tensor([t]).to(bits)
            down, middle = self.controlnet(latent, time_now, bits, class_labels=modality)
            velocity = self.unet(
                latent,
                time_now,
                class_labels=modality,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                spacing_tensor=spacing,
            )
            latent = scheduler.step(velocity, float(t), latent, float(s))[0]
        return self.autoencoder.decode_stage_2_outputs(latent)


def ours(pipe: GuideGenPipeline, seed: int) -> tuple[float, float]:
    """Seconds for a CT from its label map, and for the whole pair."""
    findings = [Findings(phase="portal venous", lesions=(Lesion("liver", "right lobe", 30.0),))]
    began = time.perf_counter()
    tokens = pipe.encode([findings[0].prompt()])
    generators = [torch.Generator().manual_seed(seed)]
    label_map, _ = pipe.label_maps(findings, generators, [seed])[0]
    half = time.perf_counter()
    pipe.sample_cts(torch.from_numpy(label_map)[None], tokens, generators)
    done = time.perf_counter()
    return done - half, done - began


def peak_gib() -> float:
    """Peak memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def main() -> None:
    """Measures and writes results/maisi.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained("torso")
    ours(pipe, 0)
    peaks: dict[str, float] = {"ours": peak_gib()}
    maisi = Maisi().eval()
    label_map = torch.randint(0, 21, _SHAPE, generator=torch.Generator().manual_seed(0))
    (body,) = pipe.draft([Findings()], ["CT."], ["body"], [1])
    template = body.with_ct(np.where(body.label_map > 0, 40, -1000).astype(np.int16), {})
    seconds: dict[str, list[float]] = {name: [] for name in _NAMES}
    for repeat in range(args.repeats):
        ct, pair = ours(pipe, 1 + repeat)
        seconds["ours, CT alone"].append(ct)
        seconds["ours, whole pair"].append(pair)
        gc.collect()
        began = time.perf_counter()
        shape = tuple(maisi(label_map).shape)
        seconds["MAISI, CT alone"].append(time.perf_counter() - began)
        began = time.perf_counter()
        random_texture(template, repeat)
        seconds["TorchIO, CT alone"].append(time.perf_counter() - began)
    peaks["with MAISI"] = peak_gib()
    parts = (pipe.mask_sampler, pipe.autoencoder, pipe.slice_generator)
    figures: dict[str, Any] = {
        "shape": list(_SHAPE),
        "maisi_output_shape": list(shape),
        "maisi_steps": _STEPS,
        "maisi_parameters_m": round(sum(p.numel() for p in maisi.parameters()) / 1e6, 1),
        "our_parameters_m": round(sum(p.numel() for part in parts for p in part.parameters()) / 1e6, 1),
        "seconds": {k: {"median": round(median(v), 2), "all": [round(s, 2) for s in v]} for k, v in seconds.items()},
        "ratio_ct_alone": round(median(seconds["MAISI, CT alone"]) / median(seconds["ours, CT alone"]), 1),
        "hours_for_10000": {name: round(median(v) * 10_000 / 3600, 1) for name, v in seconds.items()},
        "peak_memory_gib": peaks,
        "model_sha256": pipe.fingerprint,
    }
    save("maisi", figures, seed=0)


if __name__ == "__main__":
    main()
