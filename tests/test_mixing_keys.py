"""Real and synthetic items that differ in what else they hold: a mixture keeps what both have, and so trains."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandCropByPosNegLabeld,
    ScaleIntensityRanged,
)
from test_mixing import Counting

from guidegen_data import ShardReader, mix
from guidegen_data.dataset import GuideGenDataset, GuideGenStream
from guidegen_data.errors import ShardError

KEYS = ["image", "label"]
crop = Compose(
    [
        ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True),
        RandCropByPosNegLabeld(KEYS, "label", (16, 16, 16), num_samples=2),
    ]
)


@pytest.fixture
def real(shards, tmp_path) -> Dataset:
    """Four cases as a user has them: files, cropped as the synthetic ones are, with a name that these lack."""
    names = []
    for i in range(4):
        case = ShardReader(shards)[i]
        files = {key: tmp_path / f"patient{i}_{key}.nii.gz" for key in KEYS}
        for path, array in zip(files.values(), (case.ct_hu, case.label_map), strict=True):
            nib.save(nib.Nifti1Image(array, case.affine), path)
        names.append({**files, "patient": f"patient{i}"})
    return Dataset(names, Compose([LoadImaged(KEYS), EnsureChannelFirstd(KEYS), crop]))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("endless", [False, True])
def test_a_users_own_cases_and_ours_go_into_one_batch(endless, num_workers, real, shards, generator) -> None:
    if endless:
        synthetic = GuideGenStream(generator, crop, seed=1, device="cpu")
    else:
        synthetic = GuideGenDataset(shards, transform=crop)
    mixed = mix(real, synthetic, 0.5, n=8)
    mixed.set_epoch(0)
    batches = list(DataLoader(mixed, batch_size=2, num_workers=num_workers))
    assert [batch["image"].shape for batch in batches] == [(4, 1, 16, 16, 16)] * 4
    assert [batch["label"].shape for batch in batches] == [(4, 1, 16, 16, 16)] * 4
    assert {key for batch in batches for key in batch} == set(KEYS)
    assert {batch["label"].dtype for batch in batches} == {torch.float32}
    names = [name for batch in batches for name in batch["image"].meta["filename_or_obj"]]
    assert sum("patient" in name for name in names) == 8


NAMES = st.frozensets(st.sampled_from(["image", "label", "report", "meta", "patient", "x"]))


def items(keys: frozenset[str]) -> list[dict[str, int]]:
    return [dict.fromkeys(keys, i) for i in range(4)]


@given(NAMES, NAMES)
def test_items_keep_what_both_have_or_are_refused_before_the_first_one(ours: frozenset, theirs: frozenset) -> None:
    of_both = ours & theirs
    if not of_both or any((key in ours) != (key in theirs) for key in KEYS):
        with pytest.raises(ShardError, match="name them alike"):
            mix(items(theirs), items(ours), 0.5)
    else:
        mixed = mix(items(theirs), items(ours), 0.5)
        assert [set(mixed[i]) for i in range(4)] == [of_both] * 4
    for fraction, only in ((0.0, theirs), (1.0, ours)):
        mixed = mix(items(theirs), items(ours), fraction)
        assert [set(mixed[i]) for i in range(4)] == [only] * 4


def test_a_stream_learns_them_from_its_first_case_and_loses_none() -> None:
    for seed in range(8):
        mixed = mix([{"x": i, "patient": "a", "kind": "real"} for i in range(8)], Counting(), 0.25, seed)
        passes = [list(mixed) for _ in range(3)]
        assert [len(items) for items in passes] == [8] * 3
        assert {frozenset(item) for items in passes for item in items} == {frozenset(["x", "kind"])}
        fresh = [item["x"] for items in passes for item in items if item["kind"] == "synthetic"]
        assert fresh == list(range(6))


def test_a_stream_that_shares_nothing_is_refused_at_its_first_item() -> None:
    with pytest.raises(ShardError, match=r"real items have image, label, synthetic ones kind, x"):
        next(iter(mix(items(frozenset(KEYS)), Counting(), 0.5)))


def test_items_that_are_no_dictionaries_stay_as_they_are_but_not_beside_dictionaries() -> None:
    mixed = mix([(0, "real")] * 4, [(1, "synthetic")] * 4, 0.5)
    assert sorted(mixed[i] for i in range(4)) == [(0, "real")] * 2 + [(1, "synthetic")] * 2
    with pytest.raises(ShardError, match="the real items are no dictionaries"):
        mix([np.zeros(3)] * 4, items(frozenset(KEYS)), 0.5)
