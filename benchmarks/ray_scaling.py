"""Ray actors from 1 to 16 on a simulated cluster of four nodes, and a node removed in the middle of a run.

`python -m benchmarks.ray_scaling`. The model sleeps, so that a machine of a few cores can stand for many: what is
measured is what Ray and the one committing driver cost.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import save
from guidegen_data.anatomy import TORSO, Anatomy
from guidegen_data.case import Case, centred_affine
from guidegen_data.reports.findings import Findings
from guidegen_data.shards.manifest import RunConfig
from guidegen_data.shards.plan import make_recipe
from guidegen_data.shards.ray import Actors, RayCluster
from guidegen_data.shards.verify import problems
from guidegen_data.shards.workers import fill_folder, make_shards

_SMALL = replace(TORSO, shape=(16, 16, 16), spacing_mm=(24.0, 24.0, 24.0))


@dataclass(frozen=True)
class Sleeping:
    """A CaseGenerator that sleeps and returns noise by its seed; one line in `trace` for every block it begins."""

    sleep_s: float
    trace: Path | None = None
    anatomy: Anatomy = _SMALL

    @property
    def fingerprint(self) -> str:
        """It has no weights."""
        return hashlib.sha256(b"sleeping").hexdigest()

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
        """One small noisy volume a case."""
        if self.trace:
            with open(self.trace, "a") as file:
                file.write(f"{os.getpid()} {time.time():.4f}\n")
        time.sleep(self.sleep_s)
        affine = centred_affine(self.anatomy.shape, self.anatomy.spacing_mm)
        cases = []
        for finding, report, key, seed in zip(findings, reports, keys, seeds, strict=True):
            ct_hu = np.random.default_rng(seed).integers(-1000, 1000, self.anatomy.shape).astype(np.int16)
            label_map = (ct_hu > 900).astype(np.uint8)
            cases.append(Case(key, ct_hu, label_map, affine, report, finding, {"generator": "sleeping"}))
        return cases


def plan(num_blocks: int) -> RunConfig:
    """So many blocks of four, kept whatever they show."""
    recipe = make_recipe(Sleeping(0), quality_control=False)
    return RunConfig(recipe, num_blocks * recipe.block_size, "sleeping", shard_size=16)


def scaling(cluster: RayCluster, scratch: Path, number: int, rounds: int, sleep_s: float) -> dict[str, float]:
    """Throughput of so many actors, each with so many blocks to do, once all of them have begun."""
    config, trace = plan(number * rounds), scratch / f"trace-{number}"
    began = time.time()
    _fill(cluster, scratch / f"made-{number}", config, partial(Sleeping, sleep_s, trace), number)
    ended = time.time()
    starts: dict[int, list[float]] = defaultdict(list)
    for line in trace.read_text().splitlines():
        pid, moment = line.split()
        starts[int(pid)].append(float(moment))
    all_begun = max(min(times) for times in starts.values())
    # Seconds of sleep that were left to do when the last actor began, over the time they took on all actors.
    left_s = sum(max(0.0, t + sleep_s - max(t, all_begun)) for times in starts.values() for t in times)
    periods = [(max(times) - min(times)) / (len(times) - 1) for times in starts.values() if len(times) > 1]
    return {
        "actors": len(starts),
        "blocks": config.num_blocks,
        "wall_s": round(ended - began, 2),
        "until_all_had_begun_s": round(all_begun - began, 2),
        "busy_share": round(left_s / (len(starts) * (ended - all_begun)), 4),
        "seconds_from_block_to_block": round(sum(periods) / len(periods), 4),
    }


def node_removed(nodes: Any, cluster: RayCluster, scratch: Path, rounds: int, sleep_s: float) -> dict[str, Any]:
    """One of four nodes goes in the middle of a run of 16 actors; the result is held to a run on this process."""
    config, folder, removed_at = plan(16 * rounds), scratch / "removed", 0
    trace = scratch / "trace-removed"
    load = partial(Sleeping, sleep_s, trace)
    actors = Actors(16, 1, 0)
    for progress in fill_folder(
        folder, config, lambda blocks: cluster.compute_blocks(config.recipe, load, blocks, config.n, actors)
    ):
        if not removed_at and progress.num_done >= config.n // 2:
            removed_at = progress.num_done
            nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
    for _ in make_shards(scratch / "here", config, partial(Sleeping, 0.0)):
        pass
    same = {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in (scratch / "here").iterdir()
    }
    return {
        "cases": config.n,
        "cases_done_at_removal": removed_at,
        "blocks": config.num_blocks,
        "blocks_begun": len(trace.read_text().splitlines()),
        "problems": [str(problem) for problem in problems(folder)],
        "bytes_equal_an_undisturbed_run": same,
    }


def _fill(cluster: RayCluster, folder: Path, config: RunConfig, load: Any, number: int) -> None:
    actors = Actors(number, 1, 0)
    for _ in fill_folder(
        folder, config, lambda blocks: cluster.compute_blocks(config.recipe, load, blocks, config.n, actors)
    ):
        pass


def main() -> None:
    """Measures and writes results/ray_scaling.json."""
    from ray.cluster_utils import Cluster

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=10, help="blocks an actor (default 10)")
    parser.add_argument("--sleep", type=float, default=4.0, help="seconds a block (default 4)")
    args = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    root = str(Path(__file__).parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    memory: dict[str, Any] = {"object_store_memory": 100 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    figures: dict[str, Any] = {"nodes": 4, "sleep_s": args.sleep}
    try:
        for _ in range(4):
            nodes.add_node(num_cpus=4, **memory)
        with tempfile.TemporaryDirectory() as name, RayCluster(nodes.address) as cluster:
            measured = [scaling(cluster, Path(name), number, args.rounds, args.sleep) for number in args.actors]
            for each in measured:
                each["efficiency"] = round(each["busy_share"] / measured[0]["busy_share"], 4)
            figures["scaling"] = measured
            figures["node_removed"] = node_removed(nodes, cluster, Path(name), max(2, args.rounds // 3), args.sleep)
    finally:
        nodes.shutdown()
    save("ray_scaling", figures, seed=0)


if __name__ == "__main__":
    main()
