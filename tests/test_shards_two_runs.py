"""Two runs that fill one folder of an object store, where there are no locks: in whatever order their steps fall, the
folder ends whole, and no run dies of the other."""

from itertools import count

import fsspec
import pytest
from ellipsoids import EllipsoidGenerator
from hypothesis import given, settings
from hypothesis import strategies as st

from guidegen_data.shards.manifest import RunConfig
from guidegen_data.shards.plan import make_recipe
from guidegen_data.shards.reader import ShardReader
from guidegen_data.shards.verify import problems
from guidegen_data.shards.workers import make_shards

GENERATOR = EllipsoidGenerator(misses=0)
NUMBERS = count()


def interleaved(order: str, shard_size: int) -> str:
    """URL of a folder of twelve cases that runs 'a' and 'b' filled by turns; what `order` leaves over, 'a' first."""
    url = f"memory://two-runs-{next(NUMBERS)}/made"
    config = RunConfig(make_recipe(GENERATOR, seed=1), n=12, model="ellipsoids", shard_size=shard_size)
    runs = {name: make_shards(url, config, lambda: GENERATOR) for name in "ab"}
    for name in order:
        next(runs[name], None)
    for run in runs.values():
        for _ in run:
            pass
    return url


@pytest.mark.parametrize("shard_size", [4, 8, 12])
@pytest.mark.parametrize("order", ["abbaaaaab", "abababab", "aabaab"])
def test_two_runs_by_turns_end_in_a_whole_folder(order: str, shard_size: int) -> None:
    url = interleaved(order, shard_size)
    assert len(ShardReader(url)) == 12
    assert list(problems(url)) == []
    fsspec.filesystem("memory").rm(url, recursive=True)


@settings(max_examples=5, deadline=None)
@given(st.text("ab", max_size=14), st.sampled_from([3, 5, 8]))
def test_any_order_of_steps_does(order: str, shard_size: int) -> None:
    url = interleaved(order, shard_size)
    assert len(ShardReader(url)) == 12
    assert list(problems(url)) == []


def test_an_index_never_loses_a_shard_that_is_there() -> None:
    """Seen after every step, not only at the end."""
    url = "memory://two-runs-index/made"
    config = RunConfig(make_recipe(GENERATOR, seed=1), n=12, model="ellipsoids", shard_size=4)
    runs = {name: make_shards(url, config, lambda: GENERATOR) for name in "ab"}
    listed = [0]
    for name in "abaaabbaabb":
        next(runs[name], None)
        if fsspec.filesystem("memory").exists(f"{url}/index.json"):
            listed.append(len(ShardReader(url).entries))
    assert listed == sorted(listed)
    assert listed[-1] == 3
