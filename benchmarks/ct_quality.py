"""Do generated CTs look like CTs inside their organs? python -m benchmarks.ct_quality PREPARED --num 12 [--steps 3 ...]

With --solvers euler heun dpm++ unipc and several --steps it compares ways through the flow; a step of heun asks the
network twice, but for the last. A model that is told the HU of organs draws them for the contrast phase; with --told it
is told the medians of the case's own CT, so that what is left is the network's error and no draw's. With --as-drawn
organs are not held to the HU that were told: slices stay as the network drew them.

Every prepared case with a CT gives its label map and findings to stage 2; what comes out is compared with the case's
own CT, class by class: median HU, spread, difference of neighbouring slices, drift along the body, the noise power in
the liver; HU and outline of the body around the classes; and the Frechet distance of slices in the autoencoder's
features. PREPARED is a folder of `guidegen prepare` with a seed that training did not use.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from tqdm import tqdm

from benchmarks.record import IMAGE_PARTS, save, weights
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.metrics.frechet import frechet_distance, slice_features
from guidegen_data.metrics.texture import (
    OrganTexture,
    Surroundings,
    medians,
    noise_power,
    organ_textures,
    surroundings,
)
from guidegen_data.models.hu_prior import median_hu
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import case_paths, load_case

#: Medians of these shall lie within so many HU of the real ones.
GOALS_HU = {"liver": 15, "spleen": 15, "kidney": 15, "aorta": 15, "lung": 40}
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_SOLVERS: dict[str, Callable[[], Any]] = {
    "euler": FlowMatchEulerDiscreteScheduler,
    "heun": FlowMatchHeunDiscreteScheduler,
    "dpm++": lambda: DPMSolverMultistepScheduler(**_FLOW),
    "unipc": lambda: UniPCMultistepScheduler(**_FLOW),
}


@dataclass
class Comparison:
    """Textures of real and of made CTs of the same label maps, and the liver's noise power of both."""

    real: list[dict[str, OrganTexture]] = field(default_factory=list)
    made: list[dict[str, OrganTexture]] = field(default_factory=list)
    power: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    frequency: np.ndarray = field(default_factory=lambda: np.array([]))
    features: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    off_hu: list[np.ndarray] = field(default_factory=list)
    around: list[tuple[Surroundings, Surroundings]] = field(default_factory=list)

    def add(self, case: TrainingCase, made_hu: np.ndarray, asked_hu: np.ndarray | None, pipe: GuideGenPipeline) -> None:
        """Measures one pair, and how far the made CT is from the median HU (K,) that it was told, if any."""
        anatomy, real_hu = pipe.anatomy, np.asarray(case.ct_hu)
        if asked_hu is not None:
            self.off_hu.append(median_hu(made_hu, case.label_map, len(anatomy.classes)) - asked_hu)
        self.features.append((slice_features(pipe.autoencoder, real_hu), slice_features(pipe.autoencoder, made_hu)))
        self.real.append(organ_textures(real_hu, case.label_map, anatomy))
        self.made.append(organ_textures(made_hu, case.label_map, anatomy))
        around = [surroundings(hu, case.label_map) for hu in (real_hu, made_hu)]
        if around[0] is not None and around[1] is not None:
            self.around.append((around[0], around[1]))
        if "liver" not in anatomy.ids:
            return
        liver = case.label_map == anatomy.ids["liver"]
        frequency, real_power = noise_power(real_hu, liver, anatomy.spacing_mm[0])
        if frequency.size:
            self.frequency = frequency
            self.power.append((real_power, noise_power(made_hu, liver, anatomy.spacing_mm[0])[1]))

    def figures(self, names: list[str]) -> dict[str, Any]:
        """Per class real beside made; the summary over classes; noise power in HU^2 mm^2."""
        rows = {n: {"real": medians(self.real, n), "made": medians(self.made, n)} for n in names}
        rows = {n: r for n, r in rows.items() if r["real"] and r["made"]}
        steps = [r["made"]["step_hu"] / r["real"]["step_hu"] for r in rows.values() if r["real"]["step_hu"] > 0]
        apart = {n: round(r["made"]["median_hu"] - r["real"]["median_hu"], 1) for n, r in rows.items()}
        result: dict[str, Any] = {
            "median_step_ratio": round(float(np.median(steps)), 3),
            "median_spread_ratio": round(
                float(np.median([r["made"]["spread_hu"] / max(r["real"]["spread_hu"], 1) for r in rows.values()])), 3
            ),
            "median_difference_hu": apart,
            "slice_frechet": round(frechet_distance(*(np.concatenate(f) for f in zip(*self.features, strict=True))), 4),
            "within_goal": {n: self._within(rows[n], goal) for n, goal in GOALS_HU.items() if n in rows},
            "by_class": rows,
        }
        if self.off_hu:
            off = {n: np.array([row[k] for row in self.off_hu]) for k, n in enumerate(names, 1)}
            off = {n: values[np.isfinite(values)] for n, values in off.items()}
            result["off_what_was_told_hu"] = {n: round(float(np.median(v)), 1) for n, v in off.items() if len(v)}
        if self.around:
            result["around_classes"] = _around(self.around)
        if self.power:
            real, made = (np.mean([p[k] for p in self.power], axis=0) for k in (0, 1))
            result["liver_noise_power"] = {
                "frequency_1_per_mm": np.round(self.frequency, 4).tolist(),
                "real": np.round(real, 1).tolist(),
                "made": np.round(made, 1).tolist(),
                "total_ratio": round(float(made.sum() / real.sum()), 3),
            }
        return result

    @staticmethod
    def _within(row: dict[str, dict[str, float]], goal: float) -> bool:
        return abs(row["made"]["median_hu"] - row["real"]["median_hu"]) <= goal


def _around(pairs: list[tuple[Surroundings, Surroundings]]) -> dict[str, float]:
    """Medians over pairs of real and made: distance of the HU (Wasserstein), outlines made over real."""
    outlines = [(real, made) for real, made in pairs if real.outline_step and real.outline_width]
    apart = {
        "hu_distance": [np.abs(real.hu - made.hu).mean() for real, made in pairs],
        "outline_step_ratio": [made.outline_step / real.outline_step for real, made in outlines],
        "outline_width_ratio": [made.outline_width / real.outline_width for real, made in outlines],
    }
    return {name: round(float(np.median(values)), 3) for name, values in apart.items() if values}


def measure(
    pipe: GuideGenPipeline, cases: list[TrainingCase], steps: int, seed: int, told: bool = False
) -> dict[str, Any]:
    """One setting over all cases, with CPU seconds a CT. Case i draws the same noise and HU in all settings.

    HU are those of the case's own CT where they are `told`; ModelError for a model that cannot be.
    """
    comparison, seconds = Comparison(), 0.0
    by_phase: dict[str, Comparison] = {}
    for i, case in enumerate(tqdm(cases, desc=f"{steps} steps", disable=None)):
        began = time.process_time()
        labels = torch.from_numpy(case.label_map)[None]
        generators = [torch.Generator().manual_seed(seed + i)]
        tokens = pipe.encode([case.findings.prompt()])
        hu = pipe.organ_hu([case.findings.phase], generators, own_hu(case, pipe) if told else None)
        made = pipe.sample_cts(labels, tokens, generators, steps, organ_hu=hu, findings=[case.findings])[0].numpy()
        seconds += time.process_time() - began
        asked = None if hu is None else hu[0, : pipe.anatomy.num_classes].numpy()
        for each in (comparison, by_phase.setdefault(case.findings.phase, Comparison())):
            each.add(case, made, asked, pipe)
    names = [c.name for c in pipe.anatomy.classes[1:]]
    return {
        "cpu_seconds_a_ct": round(seconds / len(cases), 2),
        **comparison.figures(names),
        "by_phase": {
            phase: {"N": len(c.real), **{k: c.figures(names)[k] for k in ("median_difference_hu", "within_goal")}}
            for phase, c in sorted(by_phase.items())
        },
    }


def own_hu(case: TrainingCase, pipe: GuideGenPipeline) -> dict[str, float]:
    """Median HU of the classes of a case's CT, by name, but of lesions."""
    anatomy = pipe.anatomy
    values = median_hu(np.asarray(case.ct_hu), case.label_map, anatomy.num_classes, (0, anatomy.lesion_id))
    return {c.name: float(values[c.id]) for c in anatomy.classes if np.isfinite(values[c.id])}


def main() -> None:
    """Measures and writes results/ct_quality.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder of `guidegen prepare`")
    parser.add_argument("--model", default="torso")
    parser.add_argument("--num", type=int, default=12)
    parser.add_argument("--steps", type=int, nargs="*", default=[], help="steps a slice (default: the model's)")
    parser.add_argument("--solvers", nargs="*", choices=list(_SOLVERS), default=[], help="default: the model's own")
    parser.add_argument("--delays", type=int, nargs="*", default=[0], help="steps between slices; 0: the model's own")
    parser.add_argument("--told", action="store_true", help="tell the model the median HU of each case's own CT")
    parser.add_argument("--as-drawn", action="store_true", help="organs are not held to the HU that were told")
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--name", default="ct_quality", help="of the results file")
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    cases = [c for c in map(load_case, case_paths(args.prepared)) if c.ct_hu is not None][: args.num]
    if args.as_drawn:
        pipe.register_to_config(hold_hu=False)
    settings = {}
    for solver in args.solvers or [""]:
        if solver:
            pipe.register_modules(slice_scheduler=_SOLVERS[solver]())
        for steps in args.steps or [pipe.config.num_steps_ct]:
            for delay in args.delays:
                if delay:
                    pipe.register_to_config(delay_ct=delay)
                name = f"{solver + ', ' if solver else ''}steps {steps}, delay {pipe.config.delay_ct or steps}"
                name += ", told the real HU" if args.told else ""
                name += ", as drawn" if args.as_drawn else ""
                settings[name] = measure(pipe, cases, steps, args.seed, args.told)
                print(f"{name}: {settings[name]['slice_frechet']} {settings[name]['cpu_seconds_a_ct']} s", flush=True)
    save(args.name, {"num": len(cases), "settings": settings, **weights(args.model, IMAGE_PARTS)}, seed=args.seed)


if __name__ == "__main__":
    main()
