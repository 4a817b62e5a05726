"""What data sets count in memory is heard by the workers of a process, by nobody else, and in every copy of them."""

import copy
import pickle
import warnings
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from ellipsoids import EllipsoidGenerator
from test_dataset_processes import indices
from test_dataset_processes import join as join  # a fixture
from test_mixing import Counting, epoch_of, real, synthetic
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker as torch_worker

from guidegen_data import mix
from guidegen_data.dataset import GuideGenStream, MixedDataset

GENERATOR = EllipsoidGenerator(misses=0)
COPIES = {"pickle": lambda data: pickle.loads(pickle.dumps(data)), "deepcopy": copy.deepcopy}


def reals(mixed) -> list[int]:
    return [int(item["x"]) for item in mixed if item["kind"] == "real"]


def loaded(data, num_workers: int) -> DataLoader:
    return DataLoader(data, batch_size=None, num_workers=num_workers, multiprocessing_context="fork", timeout=60)


# -- ranks that share memory


def draw(rank: int, mixed, num_workers: int, drawn, monkeypatch) -> None:
    """What a rank that torch.multiprocessing started does: three passes, an epoch set, one more."""
    torch.set_num_threads(1)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = loaded(mixed, num_workers) if num_workers else mixed
    passes = [reals(loader) for _ in range(3)]
    mixed.set_epoch(7)
    drawn.put((rank, [*passes, reals(loader)]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_started_with_one_mixture_draw_every_real_case_of_an_epoch_once(num_workers: int, monkeypatch) -> None:
    context = torch.multiprocessing.get_context("fork")
    mixed, drawn = mix(real(8), Counting(), 0.25), context.Queue()
    by_rank = {}
    for rank in (0, 1):  # one after the other: the second must not hear of the first
        process = context.Process(target=draw, args=(rank, mixed, num_workers, drawn, monkeypatch))
        process.start()
        by_rank |= [drawn.get(timeout=60)]
        process.join(60)
    wanted = mix(real(8), synthetic(1), 0.25)
    for number, epoch in enumerate((0, 1, 2, 7)):
        expected = [x for kind, x in epoch_of(wanted, epoch) if kind == "real"]
        assert len(expected) == 6
        assert sorted(by_rank[0][number] + by_rank[1][number]) == sorted(expected)


def test_an_epoch_that_one_rank_sets_is_not_that_of_another(join) -> None:
    mixed, stream = mix(real(8), synthetic(8), 0.5), GuideGenStream(GENERATOR, seed=1, device="cpu")
    taken = []
    for rank in (0, 1):
        join(rank)
        mixed.set_epoch(0)
        taken += indices(islice(stream, 4))
    join(0)
    mixed.set_epoch(1)
    first_of_epoch = mixed.is_synthetic(0), mixed[0]
    stream.set_epoch(1)
    join(1)
    taken += indices(islice(stream, 4))
    assert taken == [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15]
    other = mix(real(8), synthetic(8), 0.5)
    assert [mixed[i] for i in range(8)] == [other[i] for i in range(8)]
    other.set_epoch(1)
    assert first_of_epoch == (other.is_synthetic(0), other[0])


def test_an_epoch_that_was_set_before_there_were_ranks_holds_for_all_of_them(join) -> None:
    mixed, stream = mix(real(8), synthetic(8), 0.5), mix(real(8), Counting(), 0.25)
    expected = epoch_of(mix(real(8), synthetic(8), 0.5), 5)
    mixed.set_epoch(5)
    stream.set_epoch(5)
    drawn = []
    for rank in (0, 1):
        join(rank)
        assert [(item["kind"], item["x"]) for item in (mixed[i] for i in range(8))] == expected
        drawn += reals(stream)
    by_epoch = mix(real(8), synthetic(1), 0.25)
    assert sorted(drawn) == sorted(x for kind, x in epoch_of(by_epoch, 5) if kind == "real")


def test_a_mixture_that_other_workers_go_on_with_asks_for_the_epoch_to_be_set() -> None:
    mixed = mix(real(8), Counting(), 0.5)
    next(iter(mixed))
    torch_worker._worker_info = SimpleNamespace(id=1, num_workers=2)
    try:
        with pytest.warns(UserWarning, match="call set_epoch"):
            next(iter(mixed))
        mixed.set_epoch(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            next(iter(mixed))
    finally:
        torch_worker._worker_info = None


# -- copies


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_stream_never_repeats_in_workers_that_are_started_anew(how: str) -> None:
    stream = COPIES[how](GuideGenStream(GENERATOR, seed=1, device="cpu"))
    seen = [index for _ in range(3) for index in indices(islice(loaded(stream, 1), 4))]
    assert len(set(seen)) == 12


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_mixture_counts_its_epochs_and_persistent_workers_hear_of_them(how: str) -> None:
    counting = COPIES[how](mix(real(8), Counting(), 0.5))
    drawn = Counter(x for _ in range(2) for x in reals(loaded(counting, 1)))
    assert drawn == dict.fromkeys(range(8), 1)

    mixed = COPIES[how](mix(real(6), synthetic(6), 0.5))
    assert isinstance(mixed, MixedDataset)
    options = {"multiprocessing_context": "fork", "persistent_workers": True}
    loader = DataLoader(mixed, batch_size=None, num_workers=1, timeout=60, **options)
    for epoch in (0, 3):
        mixed.set_epoch(epoch)
        items = [(item["kind"], int(item["x"])) for item in loader]
        assert items == epoch_of(mix(real(6), synthetic(6), 0.5), epoch)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_goes_its_own_way_from_where_it_was_made(how: str) -> None:
    stream = GuideGenStream(GENERATOR, seed=1, device="cpu")
    next(iter(stream))
    other = COPIES[how](stream)
    assert indices(islice(other, 2)) == [4, 5]
    stream.set_epoch(2)
    assert indices(islice(other, 3)) == [6, 7, 8]
