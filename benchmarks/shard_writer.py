"""What writing shards costs: cases a second, share of a run, memory from 100 to 10,000 cases.

`python -m benchmarks.shard_writer` [--ct FILE --label FILE] [--model torso]. Times of the writer alone are processor
seconds of this process, so that other programs on the machine do not count; the disk is synced as in a real run.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import save
from guidegen_data.anatomy import TORSO, Anatomy
from guidegen_data.case import Case, centred_affine
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.reports.findings import Findings
from guidegen_data.shards.blocks import generate_block
from guidegen_data.shards.folder import ShardFolder
from guidegen_data.shards.generators import load_generator, num_cores, prepare
from guidegen_data.shards.manifest import RunConfig, key_of
from guidegen_data.shards.plan import ReportSource, make_recipe
from guidegen_data.shards.workers import make_shards
from guidegen_data.shards.writer import encode_case
from guidegen_data.sources.phantom import phantom

Volume = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Trivial:
    """A CaseGenerator that returns the same few volumes again and again, moved by a voxel or two."""

    volumes: tuple[Volume, ...]
    anatomy: Anatomy

    @property
    def fingerprint(self) -> str:
        """It has no weights."""
        return hashlib.sha256(b"trivial").hexdigest()

    def generate(
        self,
        findings: Sequence[Findings],
        reports: Sequence[str],
        keys: Sequence[str],
        seeds: Sequence[int],
        *,
        num_steps_mask: int | None = None,
        num_steps_ct: int | None = None,
        guidance: float | None = None,
    ) -> list[Case]:
        """One volume a case, by its seed."""
        affine = centred_affine(self.anatomy.shape, self.anatomy.spacing_mm)
        cases = []
        for finding, report, key, seed in zip(findings, reports, keys, seeds, strict=True):
            ct_hu, label_map = self.volumes[seed % len(self.volumes)]
            shift = int(seed // 7 % 3)
            moved = [np.ascontiguousarray(np.roll(v, shift, 0)) for v in (ct_hu, label_map)]
            cases.append(Case(key, moved[0], moved[1], affine, report, finding, {"generator": "trivial"}))
        return cases


def phantoms(number: int = 4) -> tuple[Volume, ...]:
    """Procedural patients of 128^3 voxels at 3 mm, with the noise of a CT."""
    volumes = []
    for seed in range(number):
        label_map, ct_hu = phantom(np.random.default_rng(seed), "abdomen and pelvis")
        volumes.append((ct_hu, label_map))
    return tuple(volumes)


def real(ct: Path, label: Path) -> tuple[Volume, ...]:
    """A real CT with its label map, resampled to 128^3 voxels at 3 mm, cut or padded with air."""
    import nibabel as nib
    from scipy import ndimage

    arrays = []
    for path, order, empty in ((ct, 1, -1000), (label, 0, 0)):
        image = nib.as_closest_canonical(nib.load(path))
        array = np.asanyarray(image.dataobj).astype(np.float32)
        array = ndimage.zoom(array, np.array(image.header.get_zooms()[:3]) / 3.0, order=order)
        array = np.pad(array, [(0, max(0, 128 - n)) for n in array.shape], constant_values=empty)[:128, :128, :128]
        arrays.append(array)
    ct_hu = np.clip(arrays[0], -1024, 1976).round().astype(np.int16)
    return ((ct_hu, np.where(arrays[1] < TORSO.num_classes, arrays[1], 0).astype(np.uint8)),)


def writer_alone(volumes: tuple[Volume, ...], num_cases: int) -> dict[str, Any]:
    """Cases a second of one core from volumes to published shards: packing, checksums, tar, sync, index, card."""
    config, blocks = _made(Trivial(volumes, TORSO), num_cases)
    with tempfile.TemporaryDirectory() as folder:
        began, wall = time.process_time(), time.perf_counter()
        size = _write(Path(folder), config, blocks)
        seconds, wall_s = time.process_time() - began, time.perf_counter() - wall
    return {
        "num_cases": num_cases,
        "cases_a_second_a_core": round(num_cases / seconds, 1),
        "processor_ms_a_case": round(1000 * seconds / num_cases, 2),
        "wall_ms_a_case": round(1000 * wall_s / num_cases, 2),
        "bytes_a_voxel": round(size / num_cases / volumes[0][0].size, 3),
    }


def share_of_a_run(model: str, device: str) -> dict[str, Any]:
    """Wall and processor time of making one block with a model, and of writing it."""
    generator = load_generator(model, device)
    recipe = make_recipe(generator, quality_control=False)
    config = RunConfig(recipe, recipe.block_size, model)
    generator, source = prepare(recipe, lambda: generator, num_cores())
    generate_block(generator, recipe, source, 1)  # warms up
    began = _clocks()
    cases = generate_block(generator, recipe, source, 0)
    made = _clocks() - began
    laps = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:
            began = _clocks()
            _write(Path(folder), config, [cases])
            laps.append(_clocks() - began)
    writing = np.median(laps, 0)
    share = writing / (writing + made)
    return {
        "model": model,
        "model_sha256": generator.fingerprint,
        "generation_s_a_case": round(made[0] / len(cases), 3),
        "writing_s_a_case": round(writing[0] / len(cases), 4),
        "writing_share": round(share[0], 4),
        "writing_share_of_processor_time": round(share[1], 4),
    }


def _clocks() -> np.ndarray:
    """Wall seconds, and seconds of processor of all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def memory(num_cases: int) -> dict[str, Any]:
    """Peak memory and processor time of a process that makes so many small cases (32^3) by the whole chain."""
    command = [sys.executable, "-m", "benchmarks.shard_writer", "--memory-of", str(num_cases)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    peak_mib, seconds = result.stdout.split()
    return {"peak_mib": float(peak_mib), "processor_ms_a_case": round(1000 * float(seconds) / num_cases, 2)}


def _memory_of(num_cases: int) -> None:
    small = replace(TORSO, shape=(32, 32, 32), spacing_mm=(12.0, 12.0, 12.0))
    # Not the phantoms: drawing them takes more memory than what is measured.
    rng = np.random.default_rng(0)
    volumes = tuple(
        (rng.integers(-1000, 1000, small.shape).astype(np.int16), rng.integers(0, 21, small.shape).astype(np.uint8))
        for _ in range(4)
    )
    generator = Trivial(volumes, small)
    config = RunConfig(make_recipe(generator, quality_control=False), num_cases, "trivial")
    with tempfile.TemporaryDirectory() as folder:
        for _ in make_shards(folder, config, lambda: generator):
            pass
    print(round(_peak_mib(), 1), round(time.process_time(), 2))


def _peak_mib() -> float:
    """Peak memory of this program (Linux). `ru_maxrss` would still count the program that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def _made(generator: Trivial, num_cases: int) -> tuple[RunConfig, list[list[Case]]]:
    """Cases with their metadata and verdict, 16 of them in turns: what is measured is what happens after."""
    recipe = make_recipe(generator, quality_control=False)
    source = ReportSource(recipe, generator.anatomy)
    made = [generate_block(generator, recipe, source, block) for block in range(4)]
    size = recipe.block_size
    blocks = []
    for number in range(num_cases // size):
        indices = range(number * size, (number + 1) * size)
        cases = zip(indices, made[number % len(made)], strict=True)
        blocks.append(
            [replace(c, key=key_of(i), provenance={**c.provenance, "key": key_of(i), "index": i}) for i, c in cases]
        )
    return RunConfig(recipe, num_cases, "trivial"), blocks


def _write(folder: Path, config: RunConfig, blocks: Sequence[Sequence[Case]]) -> int:
    with ShardFolder(folder / "out", config) as shards:
        for number, cases in enumerate(blocks):
            shards.add_block(number, [encode_case(case) for case in cases])
        shards.finish()
    return sum(path.stat().st_size for path in _shards(folder / "out"))


def _shards(folder: Path) -> Iterator[Path]:
    return folder.glob("shard-*.tar")


def main() -> None:
    """Measures and writes results/shard_writer.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ct", type=Path, help="a real CT to write as well, with --label")
    parser.add_argument("--label", type=Path, help="its label map (ids of the torso table)")
    parser.add_argument("--cases", type=int, default=256, help="cases of 128^3 to write (default 256)")
    parser.add_argument("--model", default="torso", help="model whose run the writing is a share of")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--counts", type=int, nargs="*", default=[100, 1000, 10_000], help="cases for memory")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        _memory_of(args.memory_of)
        return
    keep_freed_memory()  # as the command does
    figures: dict[str, Any] = {"phantoms_128": writer_alone(phantoms(), args.cases)}
    if args.ct:
        figures["real_ct_128"] = writer_alone(real(args.ct, args.label), args.cases)
    figures["share_of_a_run"] = share_of_a_run(args.model, args.device)
    figures["memory_by_cases"] = {str(n): memory(n) for n in args.counts}
    save("shard_writer", figures, seed=0)


if __name__ == "__main__":
    main()
