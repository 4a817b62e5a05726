"""Seconds, memory and cost of one 128^3 pair, end to end and warm, on this machine: python -m benchmarks.throughput."""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import save
from guidegen_data.case import Case
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.findings import Findings, Lesion

FINDINGS = Findings(
    phase="portal venous",
    organs={"gallbladder": "absent"},
    lesions=(Lesion("colon", "sigmoid", 24.0),),
)


def one_block(pipe: GuideGenPipeline, batch: int, seed: int) -> list[Case]:
    """Generates `batch` cases as guidegen-shard does."""
    seeds = [seed + b for b in range(batch)]
    return pipe.generate([FINDINGS] * batch, ["timing"] * batch, [f"c{s}" for s in seeds], seeds)


def stage_times(pipe: GuideGenPipeline, seed: int) -> dict[str, float]:
    """Seconds of each part of one case, warm."""
    times, began = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        now = time.perf_counter()
        times[name], began = round(now - began, 2), now

    generators = [torch.Generator().manual_seed(seed)]
    tokens = pipe.encode([FINDINGS.prompt()])
    lap("text")
    label_map, _ = pipe.label_maps([FINDINGS], generators, [seed])[0]
    lap("label map")
    pipe.sample_cts(torch.from_numpy(label_map).unsqueeze(0).to(tokens.device), tokens, generators)
    lap("CT (slices and decoding)")
    return times


def label_map_times(pipe: GuideGenPipeline, batches: list[int], repeats: int) -> dict[str, Any]:
    """Seconds a label map of stage 1 alone, by batch; the batches alternate."""
    laps: dict[int, list[float]] = {batch: [] for batch in batches}
    for repeat in range(repeats):
        for batch, found in laps.items():
            seeds = [1000 * repeat + b for b in range(batch)]
            began = time.perf_counter()
            pipe.label_maps([FINDINGS] * batch, [torch.Generator().manual_seed(s) for s in seeds], seeds)
            found.append((time.perf_counter() - began) / batch)
    return {
        str(b): {"median": round(statistics.median(v), 2), "all": [round(x, 2) for x in v]} for b, v in laps.items()
    }


def floor(pipe: GuideGenPipeline, seconds: dict[str, float]) -> dict[str, Any]:
    """Operations of each part of one case, the rate of a large matrix product in the networks' precision, and how many
    times longer each part takes than its operations would at that rate."""
    dtype, device = next(pipe.mask_sampler.parameters()).dtype, pipe.device
    a = torch.randn(2048, 2048, device=device).to(dtype)
    a @ a
    laps = []
    for _ in range(9):
        began = time.perf_counter()
        _ = float((a @ a)[0, 0])
        laps.append(time.perf_counter() - began)
    rate = 2 * 2048**3 / statistics.median(laps)
    counted: dict[str, float] = {}
    generators = [torch.Generator().manual_seed(3)]
    with FlopCounterMode(display=False) as counter:
        label_map, _ = pipe.label_maps([FINDINGS], generators, [3])[0]
    counted["label map"] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        labels = torch.from_numpy(label_map).unsqueeze(0).to(device)
        pipe.sample_cts(labels, pipe.encode([FINDINGS.prompt()]), generators)
    counted["CT (slices and decoding)"] = counter.get_total_flops()
    return {
        "matrix_rate_gflops": round(rate / 1e9, 1),
        "precision": str(dtype).removeprefix("torch."),
        "operations_g": {name: round(n / 1e9, 1) for name, n in counted.items()},
        "times_the_floor": {name: round(seconds[name] / (n / rate), 2) for name, n in counted.items()},
    }


def main() -> None:
    """Measures and writes results/throughput.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="torso")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--mask-batches", type=int, nargs="*", default=[1, 8], help="of stage 1 alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="stage 2's network compiled")
    parser.add_argument("--name", default="throughput", help="of the results file")
    args = parser.parse_args()
    keep_freed_memory()
    began = time.perf_counter()
    pipe = GuideGenPipeline.from_pretrained(args.model, device=args.device)
    figures: dict[str, Any] = {"load_s": round(time.perf_counter() - began, 2), "compiled": args.compile}
    if args.compile:
        pipe.compile()
    began = time.perf_counter()
    one_block(pipe, 1, seed=0)
    figures["first_case_s"] = round(time.perf_counter() - began, 2)
    for batch in args.batches:
        began = time.perf_counter()
        one_block(pipe, batch, seed=0)  # other sizes of batch are compiled anew
        figures[f"first_block_of_{batch}_s"] = round(time.perf_counter() - began, 2)
        laps = []
        for repeat in range(args.repeats):
            began = time.perf_counter()
            one_block(pipe, batch, seed=100 * repeat)
            laps.append((time.perf_counter() - began) / batch)
        figures[f"seconds_a_case_batch_{batch}"] = {
            "median": round(statistics.median(laps), 2),
            "all": [round(v, 2) for v in laps],
        }
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        figures[f"peak_memory_gib_up_to_batch_{batch}"] = round(peak, 2)
    figures["parts_s"] = stage_times(pipe, seed=1)
    figures["seconds_a_label_map_by_batch"] = label_map_times(pipe, args.mask_batches, args.repeats)
    figures["floor"] = floor(pipe, figures["parts_s"])
    figures["model_sha256"] = pipe.fingerprint
    figures["steps"] = {
        "mask": pipe.config.num_steps_mask,
        "ct": pipe.config.num_steps_ct,
        "delay_ct": pipe.config.delay_ct,
    }
    figures["guidance"] = pipe.config.guidance
    save(args.name, figures, seed=0)


if __name__ == "__main__":
    main()
