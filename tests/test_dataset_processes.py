"""Cases made where they are asked for are the same in whatever process that is, and none is had twice."""

import errno
import pickle
from dataclasses import dataclass, replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ellipsoids import EllipsoidGenerator
from test_mixing import Counting, real
from torch import distributed
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker as torch_worker

from guidegen_data import mix
from guidegen_data.anatomy import ANATOMIES
from guidegen_data.anatomy_files import register
from guidegen_data.dataset import GuideGenDataset, GuideGenStream, on_the_fly
from guidegen_data.errors import ShardError
from guidegen_data.shards.plan import make_recipe

GENERATOR = EllipsoidGenerator(misses=0)


def indices(items) -> list[int]:
    return [int(item["meta"]["index"]) for item in items]


# -- distributed training


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch):
    """Makes this process a rank of a process group that no environment tells of; None makes it a spawned worker."""

    def joined(rank: int | None, num_ranks: int = 2) -> None:
        monkeypatch.setattr(distributed, "is_initialized", lambda: rank is not None)
        monkeypatch.setattr(distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(distributed, "get_world_size", lambda: num_ranks)
        info = SimpleNamespace(id=0, num_workers=1) if rank is None else None
        monkeypatch.setattr(torch_worker, "_worker_info", info)

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return joined


def spawned(data, rank: int, join):
    """A data set as a spawned worker of a rank gets it."""
    join(rank)
    sent = pickle.dumps(data)
    join(None)
    return pickle.loads(sent)


def test_spawned_workers_know_the_rank_of_the_process_that_started_them(join) -> None:
    stream = GuideGenStream(GENERATOR, seed=1, device="cpu")
    seen = [index for rank in (0, 1) for index in indices(islice(spawned(stream, rank, join), 8))]
    assert sorted(seen) == list(range(16))


def test_a_stream_that_was_pickled_elsewhere_takes_the_rank_of_its_new_process(join) -> None:
    stream = spawned(GuideGenStream(GENERATOR, seed=1, device="cpu"), 1, join)
    join(0)
    assert indices(islice(stream, 1)) == [0]


def test_spawned_workers_of_a_mixture_share_its_positions(join) -> None:
    epochs = [list(spawned(mix(real(8), Counting(), 0.5), rank, join)) for rank in (0, 1)]
    assert [len(epoch) for epoch in epochs] == [4, 4]
    reals = [item["x"] for epoch in epochs for item in epoch if item["kind"] == "real"]
    assert len(set(reals)) == len(reals) == 4


# -- threads


@dataclass(frozen=True)
class Float32(EllipsoidGenerator):
    """Says that it computes in float32, does so on every thread that it may use, and writes down how many that are."""

    dtype: torch.dtype = torch.float32

    def generate(self, *lists, **settings):
        torch.randn(1, 4, 24, 24, 24).exp().sum().item()
        torch.randn(400, 400).mm(torch.randn(400, 400))
        self.trace.write_text(str(torch.get_num_threads()))
        return EllipsoidGenerator.generate(replace(self, trace=None), *lists, **settings)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_cases_are_made_with_the_threads_of_guidegen_shard(tmp_path, num_workers: int) -> None:
    """A forked worker has lost the threads of its parent, and OpenMP must not wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        torch.randn(400, 400).mm(torch.randn(400, 400))
        made = GuideGenDataset(model=Float32(misses=0, trace=tmp_path / "trace"), n=4, cache_dir=tmp_path, device="cpu")
        context = {"multiprocessing_context": "fork", "timeout": 60} if num_workers else {}
        assert len(list(DataLoader(made, batch_size=None, num_workers=num_workers, **context))) == 4
        assert (tmp_path / "trace").read_text() == "2"
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# -- models and tables in a new process


def test_a_process_that_loads_another_model_than_the_first_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(on_the_fly, "load_generator", lambda model, device: GENERATOR)
    made = GuideGenDataset(model="torso", n=4, seed=1, cache_dir=tmp_path, device="cpu")
    monkeypatch.setattr(on_the_fly, "load_generator", lambda model, device: replace(GENERATOR, version="2"))
    with pytest.raises(ShardError, match="model changed"):
        pickle.loads(pickle.dumps(made))[0]


def test_a_table_of_the_users_own_needs_no_templates_and_is_known_to_workers(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(ANATOMIES, "mine", GENERATOR.anatomy)  # so that the name is gone again after the test
    del ANATOMIES["mine"]
    mine = EllipsoidGenerator(misses=0, anatomy=register(replace(GENERATOR.anatomy, name="mine")))
    assert make_recipe(mine).templates == "torso"
    made = GuideGenDataset(model=mine, n=1, seed=1, cache_dir=tmp_path, device="cpu")
    made[0]
    sent = pickle.dumps(made)
    del ANATOMIES["mine"]  # as in a spawned worker, where the model was not loaded
    assert pickle.loads(sent)[0]["meta"]["anatomy"] == "mine"


@pytest.mark.parametrize("how", ["altered", "cut"])
def test_a_damaged_block_of_the_cache_is_made_anew(tmp_path, how: str) -> None:
    made = GuideGenDataset(model=GENERATOR, n=4, seed=1, cache_dir=tmp_path, device="cpu")
    images = [made[i]["image"] for i in range(4)]
    (path,) = tmp_path.rglob("block*.tar")
    data = bytearray(path.read_bytes())
    data[data.index(b"s000000002.ct.nii.gz") + 600] ^= 1
    path.write_bytes(data[:-3000] if how == "cut" else data)
    again = GuideGenDataset(model=GENERATOR, n=4, seed=1, cache_dir=tmp_path, device="cpu")
    assert all(np.array_equal(again[i]["image"], images[i]) for i in range(4))
    assert path.stat().st_size == len(data)


def test_a_file_system_without_locks_keeps_cases_all_the_same(tmp_path, monkeypatch) -> None:
    def no_locks(*arguments) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(on_the_fly.fcntl, "flock", no_locks)
    made = GuideGenDataset(model=GENERATOR, n=4, seed=1, cache_dir=tmp_path, device="cpu")
    assert indices(made[i] for i in range(4)) == [0, 1, 2, 3]
    assert len(list(tmp_path.rglob("block*.tar"))) == 1
    assert not list(tmp_path.rglob("*.lock"))


# -- the course of a stream


def test_setting_an_epoch_drops_the_rest_of_the_block_that_was_begun() -> None:
    stream = GuideGenStream(GENERATOR, seed=1, device="cpu")
    items = iter(stream)
    first = next(items)["meta"]["case_seed"]
    stream.set_epoch(3)
    epoch = [next(items)["meta"] for _ in range(5)]
    assert [meta["index"] for meta in epoch] == [0, 1, 2, 3, 4]
    assert first not in [meta["case_seed"] for meta in epoch]
    stream.set_epoch(3)
    assert next(items)["meta"] == epoch[0]


def test_a_pass_goes_on_with_the_rest_of_the_block() -> None:
    stream = GuideGenStream(GENERATOR, seed=1, device="cpu")
    assert [indices(islice(stream, 3)) for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_other_workers_than_before_are_told_that_cases_come_again() -> None:
    stream = GuideGenStream(GENERATOR, seed=1, device="cpu")
    next(iter(stream))
    torch_worker._worker_info = SimpleNamespace(id=0, num_workers=2)
    try:
        with pytest.warns(UserWarning, match="call set_epoch"):
            next(iter(stream))
        stream.set_epoch(1)
        assert indices(islice(stream, 5)) == [0, 1, 2, 3, 8]
    finally:
        torch_worker._worker_info = None
