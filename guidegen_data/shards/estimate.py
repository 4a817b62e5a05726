"""What a run will take, before it starts: time, disk and memory."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import ShardError
from guidegen_data.shards.manifest import WORK, Recipe, RunConfig, read_index
from guidegen_data.shards.plan import CaseGenerator, ReportSource, derive_seed
from guidegen_data.shards.storage import Folder

# Bytes of a case per voxel, CT and label map together, gzipped: 0.85 to 0.95 measured on real CTs at 3 mm.
_BYTES_PER_VOXEL = 1.0
_BYTES_PER_CASE = 16_384


@dataclass(frozen=True)
class Estimate:
    """Of one process: seconds for a case (rejected drafts not counted) and its peak memory."""

    seconds_a_case: float
    peak_gib: float


def bytes_needed(config: RunConfig, anatomy: Anatomy) -> float:
    """Room that the folder takes at the most while it is filled."""
    x, y, z = anatomy.shape
    # A shard being written exists twice, as finished blocks and as the shard.
    num_cases = config.n + min(config.n, config.shard_size + config.recipe.block_size)
    return num_cases * (x * y * z * _BYTES_PER_VOXEL + _BYTES_PER_CASE)


def check_disk(folder: Folder, config: RunConfig, anatomy: Anatomy) -> None:
    """ShardError when the disk cannot hold what the folder still lacks. Object stores are not asked."""
    free, num_left = folder.free_bytes(), config.n - _num_published(folder)
    if free is None or num_left <= 0:
        return
    waiting = sum(folder.sizes(WORK).values())
    if (needed := bytes_needed(replace(config, n=num_left), anatomy) - waiting) > free:
        raise ShardError(
            f"{num_left} cases need about {needed / 1e9:.2f} GB, but {folder.url} has {free / 1e9:.2f} GB free; free "
            f"some space, or give another --out or a smaller --n."
        )


def _num_published(folder: Folder) -> int:
    """Cases whose shard is there as the index says."""
    sizes = folder.sizes()
    with suppress(ShardError):
        return sum(e.num_cases for e in read_index(folder) if sizes.get(e.name) == e.bytes)
    return 0


def measure(generator: CaseGenerator, recipe: Recipe) -> Estimate:
    """Time and memory of the generator on this machine.

    Drafts with one or two steps are timed, and the rest follows because time grows by the same amount with every step;
    where the number of steps is not known, whole drafts are. The result is for a batch of one, an upper bound for a
    block.
    """
    source = ReportSource(recipe, generator.anatomy)
    given = getattr(generator, "config", None)
    steps_mask = recipe.num_steps_mask or getattr(given, "num_steps_mask", None)
    steps_ct = recipe.num_steps_ct or getattr(given, "num_steps_ct", None)

    def seconds(num_cases: int, mask: int | None, ct: int | None) -> float:
        requests = [source.request(i) for i in range(num_cases)]
        began = time.perf_counter()
        generator.generate(
            [r.findings for r in requests],
            [r.report for r in requests],
            [f"draft-{i}" for i in range(num_cases)],
            [derive_seed(recipe.seed, "draft", i, 0) for i in range(num_cases)],
            num_steps_mask=mask,
            num_steps_ct=ct,
            guidance=recipe.guidance,
        )
        return time.perf_counter() - began

    if steps_mask is None or steps_ct is None:
        seconds(recipe.block_size, None, None)
        return Estimate(seconds(1, None, None), peak_gib())
    seconds(recipe.block_size, 1, 1)  # warms up, and shows what memory a block takes
    least = seconds(1, 1, 1)
    a_mask_step, a_ct_step = seconds(1, 2, 1) - least, seconds(1, 1, 2) - least
    more = max(0.0, a_mask_step) * (steps_mask - 1) + max(0.0, a_ct_step) * (steps_ct - 1)
    return Estimate(least + more, peak_gib())


def peak_gib() -> float:
    """Most memory that this process has held: on its GPU where it has used one, else its own."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.max_memory_reserved():
        return torch.cuda.max_memory_reserved() / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 2**20 if sys.platform != "darwin" else 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def free_memory_gib() -> float | None:
    """Memory that processes can still have, None where nobody can tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def duration(seconds: float) -> str:
    """'3 h 20 min', '5 min' or '40 s'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
