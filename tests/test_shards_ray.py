"""Blocks computed on a Ray cluster of several simulated nodes: the same bytes, whatever is lost on the way."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ellipsoids import EllipsoidGenerator, load_ellipsoids
from test_shards import contents

from guidegen_data.cli.main import shard
from guidegen_data.errors import ShardError
from guidegen_data.shards import generators
from guidegen_data.shards.manifest import RunConfig
from guidegen_data.shards.ray import Actors, RayCluster
from guidegen_data.shards.workers import fill_folder

ray = pytest.importorskip("ray")
TWO = Actors(2, 1, 0)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without room for actors, so that any other node may be removed, and one node with two CPUs."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), os.environ["PYTHONPATH"])))
        memory = {"object_store_memory": 100 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
        cluster.add_node(num_cpus=2, **memory)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def cluster(nodes: Any) -> Iterator[RayCluster]:
    with RayCluster(nodes.address) as joined:
        yield joined


def steps(
    cluster: RayCluster, folder: Path, config: RunConfig, load: Any = EllipsoidGenerator, actors: Actors = TWO
) -> Iterator[Any]:
    def compute(blocks: Any) -> Iterator[Any]:
        return cluster.compute_blocks(config.recipe, load, blocks, config.n, actors)

    return fill_folder(folder, config, compute)


def computed(trace: Path) -> list[int]:
    """First index of every whole block that was begun."""
    lines = [line.split() for line in trace.read_text().splitlines()] if trace.exists() else []
    return [int(words[1][1:]) for words in lines if len(words) > 2]


def test_actors_write_the_same_bytes_as_this_process(cluster, shards: Path, config: RunConfig, tmp_path: Path) -> None:
    for _ in steps(cluster, tmp_path / "out", config):
        pass
    assert contents(tmp_path / "out") == contents(shards)


def test_the_block_of_a_killed_actor_goes_to_another(cluster, shards: Path, config: RunConfig, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    load = partial(EllipsoidGenerator, trace=trace, pause_s=0.1)
    killed = set()
    for progress in steps(cluster, tmp_path / "out", config, load):
        if not killed and progress.num_done:
            killed.add(int(trace.read_text().split()[0]))
            os.kill(min(killed), signal.SIGKILL)
    assert killed
    assert contents(tmp_path / "out") == contents(shards)


def test_a_stopped_driver_goes_on_from_the_folder(cluster, shards: Path, config: RunConfig, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    load = partial(EllipsoidGenerator, trace=trace, pause_s=0.1)
    one = replace(TWO, number=1)
    for progress in steps(cluster, tmp_path / "out", config, load, one):
        if progress.num_done:
            break
    begun = computed(trace)
    trace.unlink()
    for _ in steps(cluster, tmp_path / "out", config, load, one):
        pass
    assert contents(tmp_path / "out") == contents(shards)
    assert 0 in begun
    assert 0 not in computed(trace)


def test_a_removed_node_loses_nothing(nodes: Any, cluster, config: RunConfig, tmp_path: Path) -> None:
    trace, more = tmp_path / "trace", replace(config, n=40)
    extra = nodes.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    load = partial(EllipsoidGenerator, trace=trace, pause_s=0.2)
    for progress in steps(cluster, tmp_path / "out", more, load, replace(TWO, number=4)):
        if extra and progress.num_done >= 12:
            nodes.remove_node(extra, allow_graceful=False)
            extra = None
    assert extra is None
    list(fill_folder(tmp_path / "here", more, partial(_here, more)))
    assert contents(tmp_path / "out") == contents(tmp_path / "here")


def _here(config: RunConfig, blocks: Any) -> Any:
    from guidegen_data.shards.workers import compute_blocks

    return compute_blocks(config.recipe, [EllipsoidGenerator], blocks, config.n)


def test_results_do_not_pile_up_before_a_slow_driver(cluster, config: RunConfig, tmp_path: Path) -> None:
    trace, more = tmp_path / "trace", replace(config, n=80)
    finished = cluster.compute_blocks(
        more.recipe, partial(EllipsoidGenerator, trace=trace), range(more.num_blocks), more.n, TWO
    )
    next(finished)
    import time

    time.sleep(1.5)
    assert len(computed(trace)) <= 1 + 2 * TWO.number
    finished.close()


def test_what_an_actor_refuses_keeps_its_sentence(cluster, config: RunConfig) -> None:
    changed = partial(EllipsoidGenerator, version="2")
    with pytest.raises(ShardError, match="model changed"):
        list(cluster.compute_blocks(config.recipe, changed, [0, 1], config.n, TWO))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(cluster.compute_blocks(config.recipe, partial(divmod, 1, 0), [0, 1], config.n, TWO))


def test_a_block_that_ends_every_actor_ends_the_run_with_a_sentence(cluster, config: RunConfig) -> None:
    with pytest.raises(ShardError, match="again and again"):
        list(cluster.compute_blocks(config.recipe, partial(os._exit, 3), [0], config.n, replace(TWO, number=1)))


def test_actors_suit_the_cluster_and_what_no_node_has_is_refused(cluster) -> None:
    _wait_until_one_node_computes()  # another test took a node away, and that is noticed late
    assert cluster.actors("cpu") == Actors(1, 2, 0)
    assert cluster.actors("cpu", 2) == Actors(2, 1, 0)
    assert not cluster.has_gpus()
    with pytest.raises(ShardError, match="1 GPU"):
        cluster.actors("cuda")


def _wait_until_one_node_computes() -> None:
    import time

    for _ in range(600):
        if sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")) == 1:
            return
        time.sleep(0.1)
    raise AssertionError("the removed node still lives")


@pytest.mark.parametrize(
    ("gpus", "number", "expected"),
    [(8, None, Actors(8, 1, 1.0)), (8, 3, Actors(3, 1, 1.0)), (2, 3, Actors(3, 1, 0.5)), (2, 5, Actors(5, 1, 1 / 3))],
)
def test_one_actor_holds_a_gpu_and_more_share_them(cluster, monkeypatch, gpus, number, expected) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 64.0, "GPU": float(gpus)}}])
    assert cluster.actors("cuda", number) == expected


def test_the_command_joins_a_cluster_and_writes_the_same_bytes(nodes: Any, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(generators, "load_generator", load_ellipsoids)
    monkeypatch.setattr(generators, "device_kind", lambda device: "cpu")
    monkeypatch.setattr("guidegen_data.cli.memory.keep_freed_memory", lambda: None)
    assert shard(["--n", "8", "--out", str(tmp_path / "a")]) == 0
    assert shard(["--n", "8", "--out", str(tmp_path / "b"), "--ray", nodes.address, "--workers", "2"]) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_without_ray_and_without_a_cluster_a_sentence_says_what_to_do(monkeypatch) -> None:
    with pytest.raises(ShardError, match="no Ray cluster answers"):
        RayCluster("127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ShardError, match=r"guidegen-data\[ray\]"):
        RayCluster()
