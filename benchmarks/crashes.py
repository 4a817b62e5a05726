"""Runs killed at random moments, each resumed and held to the uninterrupted run: python -m benchmarks.crashes.

A quick generator (tests/ellipsoids.py) stands for the model; everything else is what `guidegen-shard` runs. Killed are
worker processes, drivers with workers, drivers on Ray, and Ray actors; disks fill up (a tmpfs that is too small, where
one may be mounted) or writes fail. Needs Linux.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from ellipsoids import EllipsoidGenerator

from benchmarks.crashes_log import CLEAN, Outcome, read_log
from benchmarks.crashes_victims import actors_in, workers_of
from benchmarks.record import RESULTS, save
from guidegen_data.shards import storage
from guidegen_data.shards.manifest import WORK, RunConfig, shard_name
from guidegen_data.shards.plan import make_recipe
from guidegen_data.shards.ray import Actors, RayCluster
from guidegen_data.shards.verify import problems
from guidegen_data.shards.workers import compute_blocks, fill_folder

PAUSE_S = 0.03
MODES = ("worker", "driver", "interrupt", "Ray actor", "Ray driver", "full tmpfs", "failing write")
_ON_RAY = ("Ray actor", "Ray driver")


def plan() -> RunConfig:
    """24 cases in shards of five, so that blocks of four reach over their borders; some drafts are rejected."""
    return RunConfig(make_recipe(EllipsoidGenerator(), seed=1), n=24, model="ellipsoids", shard_size=5)


def fill(folder: Path, trace: Path, workers: int, address: str, fail_at: int) -> None:
    """One whole run in this process, as the command does it; the `fail_at`-th file that is synced fails, 0 for none."""
    config, load = plan(), partial(EllipsoidGenerator, trace=trace, pause_s=PAUSE_S)
    if fail_at:
        _fail_at(fail_at)
    if address:
        with RayCluster(address) as cluster:
            actors = Actors(workers, 1, 0)
            for _ in fill_folder(
                folder, config, lambda blocks: cluster.compute_blocks(config.recipe, load, blocks, config.n, actors)
            ):
                pass
        return
    for _ in fill_folder(folder, config, lambda b: compute_blocks(config.recipe, [load] * workers, b, config.n)):
        pass


def _fail_at(number: int) -> None:
    sync, calls = os.fsync, iter(range(1, 10**6))

    def full(handle: int) -> None:
        if next(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    storage.os.fsync = full  # type: ignore[assignment]


class Harness:
    """Kills runs in one scratch folder and compares them with a run that nobody disturbed."""

    def __init__(self, scratch: Path, address: str, seed: int, seconds: dict[str, float] | None = None) -> None:
        """`seconds` of undisturbed runs by mode and workers ('driver 2'); the others are measured."""
        self._scratch, self._address = scratch, address
        self._rng = random.Random(seed)
        self._config = plan()
        self._seconds = dict(seconds or {})
        fill(scratch / "reference", scratch / "reference.trace", 1, "", 0)
        self._reference = contents(scratch / "reference")

    def run(self, number: int, mode: str) -> Outcome:
        """Disturb a run, look at what it left, complete it, compare."""
        folder, trace = self._scratch / f"run-{number}", self._scratch / f"run-{number}.trace"
        workers = self._rng.randint(2, 3) if mode == "worker" else self._rng.randint(1, 3)
        with self._disk(folder, mode):
            how, took_effect = self._disturb(folder, trace, mode, workers)
            wrong, done = self._left_behind(folder)
            if mode == "full tmpfs":
                subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
            trace.unlink(missing_ok=True)
            again = self._rng.randint(1, 3)
            on_ray = mode in _ON_RAY and self._rng.random() < 0.5
            process = self._start(folder, trace, again, on_ray)
            if process.wait() != 0:
                wrong.append("the resumed run failed")
            computed = blocks_begun(trace)
            if twice := done & computed:
                wrong.append(f"finished blocks {sorted(twice)} were computed again")
            wrong += [f"verify: {problem}" for problem in problems(folder)]
            if contents(folder) != self._reference:
                wrong.append("bytes differ from the uninterrupted run")
        told = (
            f"{mode}, {workers} workers: {how}; {len(done)} of {self._config.num_blocks} blocks kept; resumed with "
            f"{again} {'Ray actors' if on_ray else 'workers'}: {len(computed)} blocks computed, "
            + ("; ".join(wrong) if wrong else CLEAN)
        )
        return Outcome(mode, took_effect, told, wrong)

    def _disturb(self, folder: Path, trace: Path, mode: str, workers: int) -> tuple[str, bool]:
        if mode in ("full tmpfs", "failing write"):
            # Files are synced at odd numbers, folders, where a failure is no loss, at even ones.
            fail_at = 2 * self._rng.randint(0, 25) + 1 if mode == "failing write" else 0
            code = self._start(folder, trace, workers, False, fail_at).wait()
            return f"ended with {code}" + (f", sync {fail_at} was to fail" if fail_at else ""), code != 0
        moment = self._rng.uniform(0, self._duration(mode, workers))
        process = self._start(folder, trace, workers, mode in _ON_RAY)
        began = _wait_for_sign(process, folder, trace, mode)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        told = f"{time.perf_counter() - began:.2f} s after its first sign "
        victims: list[int] = []
        if mode in ("worker", "Ray actor"):
            victims = workers_of(process.pid) if mode == "worker" else actors_in(trace)
            if victims:
                os.kill(self._rng.choice(victims), signal.SIGKILL)
            told += "SIGKILL" if victims else "nobody was there to kill"
        else:
            process.send_signal(signal.SIGINT if mode == "interrupt" else signal.SIGKILL)
            told += "SIGINT" if mode == "interrupt" else "SIGKILL"
        code = process.wait()
        # A run whose actor was killed goes on by itself; the others end.
        return f"{told}, ended with {code}", bool(victims) if mode == "Ray actor" else code != 0

    def _duration(self, mode: str, workers: int) -> float:
        """Seconds from the first sign of a run of that kind to its end, here."""
        kind = f"{mode} {workers}"
        if kind not in self._seconds:
            folder, trace = self._scratch / f"timing {kind}", self._scratch / f"timing {kind}.trace"
            process = self._start(folder, trace, workers, mode in _ON_RAY)
            began = _wait_for_sign(process, folder, trace, mode)
            process.wait()
            self._seconds[kind] = time.perf_counter() - began
        return self._seconds[kind]

    def _start(
        self, folder: Path, trace: Path, workers: int, on_ray: bool, fail_at: int = 0
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.crashes", "--child", str(folder), str(trace), str(workers)]
        command += [self._address if on_ray else "", str(fail_at)]
        root = Path(__file__).parent.parent
        paths = [str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        return subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _left_behind(self, folder: Path) -> tuple[list[str], set[int]]:
        """What is wrong with what an ended run left, and the blocks that it had finished."""
        there = {p.name for p in folder.glob("shard-*.tar")}
        wrong = [f"{name} is not whole" for name in there if (folder / name).read_bytes() != self._reference[name]]
        waiting = {int(p.stem[6:]) for p in (folder / WORK).glob("block-*.tar")}
        shards = range(self._config.num_shards)
        published = {
            block
            for block in range(self._config.num_blocks)
            if all(shard_name(s) in there for s in shards if block in self._config.blocks_of_shard(s))
        }
        return wrong, waiting | published

    @contextmanager
    def _disk(self, folder: Path, mode: str) -> Iterator[None]:
        if mode != "full tmpfs":
            yield
            return
        folder.mkdir()
        size = int(self._rng.uniform(0.1, 1.0) * sum(map(len, self._reference.values())))
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)


def _wait_for_sign(process: subprocess.Popen[bytes], folder: Path, trace: Path, mode: str) -> float:
    """When a run has taken its folder, or has somebody to kill: so that few kills hit programs that only load."""
    while process.poll() is None:
        if mode == "worker":
            found = bool(workers_of(process.pid))
        elif mode == "Ray actor":
            found = bool(actors_in(trace))
        else:
            found = (folder / "run.json").exists()
        if found:
            break
        time.sleep(0.01)
    return time.perf_counter()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def blocks_begun(trace: Path) -> set[int]:
    """Blocks whose first drafts were made, by the generator's own record."""
    lines = [line.split() for line in trace.read_text().splitlines()] if trace.exists() else []
    return {int(words[1][1:]) // plan().recipe.block_size for words in lines if len(words) > 2}


def can_mount() -> bool:
    """Whether this process may mount a tmpfs."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"capture_output": True, "check": False}
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], **options).returncode:  # type: ignore[call-overload]
            return False
        subprocess.run(["umount", folder], check=True)
        return True


@contextmanager
def ray_cluster(wanted: bool) -> Iterator[str]:
    """Address of a cluster of a head and a node with three CPUs; '' when it is not wanted."""
    if not wanted:
        yield ""
        return
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    root = Path(__file__).parent.parent
    os.environ["PYTHONPATH"] = os.pathsep.join((str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")))
    memory: dict[str, Any] = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    try:
        cluster.add_node(num_cpus=3, **memory)
        yield cluster.address
    finally:
        cluster.shutdown()


def main() -> None:
    """Disturbs the runs, writes results/crashes.json and crashes.log, exits with 1 when anything was lost."""
    if sys.argv[1:2] == ["--child"]:
        folder, trace, workers, address, fail_at = sys.argv[2:]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
        fill(Path(folder), Path(trace), int(workers), address, int(fail_at))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="disturbed before they were over (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--go-on", action="store_true", help="count the runs of results/crashes.log, add what is missing"
    )
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    args = parser.parse_args()
    modes = [m for m in args.modes if m != "full tmpfs" or can_mount()]
    log = RESULTS / "crashes.log"
    outcomes = read_log(log) if args.go_on else []
    with tempfile.TemporaryDirectory() as scratch, ray_cluster(any(m in _ON_RAY for m in modes)) as address:
        harness = Harness(Path(scratch), address, args.seed + len(outcomes))
        while sum(o.took_effect for o in outcomes) < args.runs:
            number = len(outcomes)
            outcomes.append(harness.run(number, modes[number % len(modes)]))
            print(f"{number:03d} {outcomes[-1].told}", flush=True)
            log.write_text("".join(f"{n:03d} {o.told}\n" for n, o in enumerate(outcomes)))
    failed = sum(bool(o.wrong) for o in outcomes)
    took_effect = sum(o.took_effect for o in outcomes)
    figures: dict[str, Any] = {"runs": len(outcomes), "took_effect": took_effect, "failed": failed}
    counted = ((mode, sum(o.mode == mode for o in outcomes)) for mode in MODES)
    figures["by_mode"] = {mode: number for mode, number in counted if number}
    save("crashes", figures, seed=args.seed)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
