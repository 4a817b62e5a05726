"""Real and synthetic items in one epoch: the share, the order and the length that were asked for, in every worker."""

import warnings
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset
from monai.transforms import RandSpatialCropSamplesd
from torch.utils.data import IterableDataset

from guidegen_data import mix
from guidegen_data.dataset import GuideGenDataset, GuideGenStream, MixedStream
from guidegen_data.errors import ShardError

SIZES = st.integers(1, 12)
FRACTIONS = st.floats(0, 1)


def real(num: int) -> Dataset:
    return Dataset([{"x": i, "kind": "real"} for i in range(num)])


def synthetic(num: int) -> Dataset:
    return Dataset([{"x": i, "kind": "synthetic"} for i in range(num)])


def epoch_of(mixed, epoch: int) -> list[tuple[str, int]]:
    mixed.set_epoch(epoch)
    return [(item["kind"], item["x"]) for item in (mixed[i] for i in range(len(mixed)))]


@given(SIZES, SIZES, FRACTIONS, st.integers(0, 99), st.integers(0, 20))
def test_an_epoch_depends_on_seed_and_number_alone(num_real, num_synthetic, fraction, seed, epoch) -> None:
    one, other = (mix(real(num_real), synthetic(num_synthetic), fraction, seed) for _ in range(2))
    epoch_of(other, epoch + 1)
    assert epoch_of(one, epoch) == epoch_of(other, epoch)
    assert len(one) == num_real


@given(SIZES, SIZES, FRACTIONS, st.integers(1, 12))
def test_the_share_is_right_within_one_item_an_epoch_and_over_all(num_real, num_synthetic, fraction, n) -> None:
    mixed = mix(real(num_real), synthetic(num_synthetic), fraction, n=n)
    counts = [sum(kind == "synthetic" for kind, _ in epoch_of(mixed, e)) for e in range(6)]
    assert all(abs(count - fraction * n) <= 1 for count in counts)
    assert abs(sum(counts) - fraction * n * 6) <= 1


@given(SIZES, SIZES, FRACTIONS, st.integers(0, 99))
def test_no_item_comes_again_before_all_of_its_data_set_came(num_real, num_synthetic, fraction, seed) -> None:
    mixed = mix(real(num_real), synthetic(num_synthetic), fraction, seed)
    counts = Counter(item for e in range(8) for item in epoch_of(mixed, e))
    for kind, num in (("real", num_real), ("synthetic", num_synthetic)):
        times = [counts[kind, i] for i in range(num)]
        assert max(times) - min(times) <= 1


def test_epochs_and_seeds_differ_and_both_kinds_share_every_place() -> None:
    mixed = mix(real(40), synthetic(40), 0.5, seed=1)
    assert epoch_of(mixed, 0) != epoch_of(mixed, 1)
    assert epoch_of(mixed, 0) != epoch_of(mix(real(40), synthetic(40), 0.5, seed=2), 0)
    mixed.set_epoch(3)
    assert [mixed.is_synthetic(i) for i in range(40)] == [kind == "synthetic" for kind, _ in epoch_of(mixed, 3)]
    firsts = [mix(real(4), synthetic(4), 0.5, seed).is_synthetic(0) for seed in range(200)]
    assert 60 < sum(firsts) < 140


def test_the_ends_of_the_scale_are_the_data_sets_themselves() -> None:
    assert sorted(epoch_of(mix(real(5), synthetic(3), 0), 2)) == [("real", i) for i in range(5)]
    assert Counter(k for k, _ in epoch_of(mix(real(5), synthetic(3), 1.0), 2)) == {"synthetic": 5}


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_follow_set_epoch(persistent: bool) -> None:
    mixed = mix(real(6), synthetic(6), 0.5)
    loader = DataLoader(mixed, batch_size=2, num_workers=2, persistent_workers=persistent)
    for epoch in (0, 3):
        mixed.set_epoch(epoch)
        loaded = [pair for b in loader for pair in zip(b["kind"], b["x"].tolist(), strict=True)]
        assert loaded == epoch_of(mix(real(6), synthetic(6), 0.5), epoch)


def test_an_epoch_without_set_epoch_is_told_once_the_same_items_come_again() -> None:
    mixed = mix(real(6), synthetic(6), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(mixed[i] for i in range(6))
    with pytest.warns(UserWarning, match="until set_epoch"):
        mixed[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((3, 3, -0.1), "from 0 to 1"),
        ((3, 3, float("nan")), "from 0 to 1"),
        ((0, 3, 0.5), "one is empty"),
        ((3, 0, 0.5), "one is empty"),
        ((3, 3, 0.5, 0, 0), "n = 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(arguments, sentence: str) -> None:
    num_real, num_synthetic, *rest = arguments
    with pytest.raises(ShardError, match=sentence):
        mix(real(num_real), synthetic(num_synthetic), *rest)
    with pytest.raises(ShardError, match="count from 0"):
        mix(real(1), synthetic(1)).set_epoch(-1)


# -- with an endless data set


class Counting(IterableDataset):
    """0, 1, 2, ... from where it stopped."""

    def __init__(self) -> None:
        self.next = 0

    def __iter__(self):
        while True:
            self.next += 1
            yield {"x": self.next - 1, "kind": "synthetic"}


def test_a_stream_is_mixed_in_fresh_and_epochs_count_up() -> None:
    mixed = mix(real(8), Counting(), 0.5)
    assert isinstance(mixed, MixedStream)
    epochs = [[(item["kind"], item["x"]) for item in mixed] for _ in range(4)]
    assert [len(e) for e in epochs] == [8] * 4
    assert [x for e in epochs for kind, x in e if kind == "synthetic"] == list(range(16))
    reals = [x for e in epochs for kind, x in e if kind == "real"]
    assert Counter(reals) == dict.fromkeys(range(8), 2)


def test_workers_share_the_positions_of_an_epoch(generator, shards) -> None:
    stored = GuideGenDataset(shards)
    mixed = mix(stored, GuideGenStream(generator, seed=5, device="cpu"), 0.5, n=8)
    batches = list(DataLoader(mixed, batch_size=2, num_workers=2))
    drawn = [pair for b in batches for pair in zip(b["meta"]["seed"], b["meta"]["index"], strict=True)]
    fresh = [int(index) for seed, index in drawn if seed == 5]
    assert len(drawn) == 8
    assert len(set(fresh)) == len(fresh) == 4


def test_real_and_generated_cases_go_into_one_batch(shards, generator, tmp_path) -> None:
    made = GuideGenDataset(model=generator, n=4, seed=9, cache_dir=tmp_path, device="cpu")
    batches = list(islice(DataLoader(mix(GuideGenDataset(shards), made, 0.5), batch_size=5), 2))
    assert [b["image"].shape for b in batches] == [(5, 1, 32, 32, 32)] * 2
    assert sum(int(s) == 9 for b in batches for s in b["meta"]["seed"]) == 5


@pytest.mark.parametrize("num_real", [7, 8])
def test_every_process_gets_as_many_items_and_together_they_have_all(num_real: int, monkeypatch) -> None:
    epochs = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        mixed = mix(real(num_real), Counting(), 0.0)
        epochs.append([item["x"] for item in mixed])
        assert len(mixed) == len(epochs[-1]) == 3
    assert {x for epoch in epochs for x in epoch} == set(range(num_real))


def test_transforms_that_return_lists_give_lists_on_both_sides(generator, shards) -> None:
    crop = RandSpatialCropSamplesd(["image", "label"], (8, 8, 8), num_samples=2, random_size=False)
    stream = GuideGenStream(generator, crop, seed=5, device="cpu")
    mixed = mix(GuideGenDataset(shards, transform=crop), stream, 0.5, n=8)
    assert [batch["image"].shape[0] for batch in DataLoader(mixed, batch_size=4)] == [8, 8]


def test_no_generated_case_is_lost_between_epochs(generator, shards, tmp_path) -> None:
    traced = replace(generator, misses=0, trace=tmp_path / "trace")
    mixed = mix(GuideGenDataset(shards), GuideGenStream(traced, seed=5, device="cpu"), 0.25, n=4)
    fresh = [item["meta"]["index"] for _ in range(8) for item in mixed if item["meta"]["seed"] == 5]
    assert fresh == list(range(8))
    assert len((tmp_path / "trace").read_text().splitlines()) == 2
