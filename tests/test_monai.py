"""Our data sets under MONAI's caches, loaders and transforms, as people use them."""

import numpy as np
import pytest
import torch
from monai.data import (
    CacheDataset,
    DataLoader,
    MetaTensor,
    PersistentDataset,
    SmartCacheDataset,
    ThreadDataLoader,
    decollate_batch,
    list_data_collate,
)
from monai.transforms import Compose, Invertd, Orientationd, RandCropByPosNegLabeld, ScaleIntensityRanged, Spacingd

from guidegen_data import GuideGenDataset, ShardReader
from guidegen_data.anatomy import TORSO
from guidegen_data.dataset import item_hash

KEYS = ["image", "label"]
scale = ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True)


def test_cache_dataset_holds_each_item_once_as_the_transform_made_it(shards) -> None:
    cached = CacheDataset(GuideGenDataset(shards), transform=scale, num_workers=0, progress=False)
    assert len(cached) == 10
    expected = scale(GuideGenDataset(shards)[3])["image"]
    assert torch.equal(cached[3]["image"], expected)
    assert cached[3]["image"].max() <= 1


def test_persistent_dataset_reads_from_its_cache_what_it_made_first(shards, tmp_path) -> None:
    def open_it() -> PersistentDataset:
        return PersistentDataset(
            GuideGenDataset(shards), transform=scale, cache_dir=tmp_path, track_meta=True, hash_func=item_hash
        )

    first = open_it()[4]
    files = list(tmp_path.glob("*.pt"))
    assert len(files) == 1
    written = files[0].stat().st_mtime_ns
    again = open_it()[4]
    assert torch.equal(again["image"], first["image"])
    assert isinstance(again["image"], MetaTensor)
    assert np.array_equal(again["image"].affine, ShardReader(shards)[4].affine)
    assert [p.stat().st_mtime_ns for p in tmp_path.glob("*.pt")] == [written]
    other = GuideGenDataset(shards, label_map={"liver": 1})
    assert len({item_hash(data[i]) for data in (GuideGenDataset(shards), other) for i in (4, 5)}) == 4


def test_smart_cache_dataset_comes_round_to_every_case(shards) -> None:
    smart = SmartCacheDataset(
        [GuideGenDataset(shards)[i] for i in range(10)],
        transform=scale,
        replace_rate=0.5,
        cache_num=4,
        progress=False,
        num_init_workers=1,
        num_replace_workers=1,
    )
    direct = SmartCacheDataset(
        GuideGenDataset(shards), transform=scale, replace_rate=0.5, cache_num=4, shuffle=False, progress=False
    )
    for dataset in (smart, direct):
        seen = set()
        dataset.start()
        for _ in range(5):
            seen |= {dataset[i]["meta"]["index"] for i in range(4)}
            dataset.update_cache()
        dataset.shutdown()
        assert seen == set(range(10))


def test_thread_data_loader_gives_every_case(shards) -> None:
    loader = ThreadDataLoader(GuideGenDataset(shards, transform=scale), batch_size=5, num_workers=0)
    assert [int(i) for batch in loader for i in batch["meta"]["index"]] == list(range(10))


def test_list_data_collate_keeps_affines_and_decollate_gives_the_items_back(shards) -> None:
    dataset = GuideGenDataset(shards)
    batch = list_data_collate([dataset[0], dataset[1]])
    assert batch["image"].shape == (2, 1, 32, 32, 32)
    items = decollate_batch(batch)
    for item, i in zip(items, (0, 1), strict=True):
        assert torch.equal(item["label"], dataset[i]["label"])
        assert torch.equal(item["image"].affine, dataset[i]["image"].affine)
        assert item["report"] == dataset[i]["report"]


def test_spacingd_resamples_image_and_label_on_one_grid_of_the_spacing_asked_for(shards) -> None:
    spaced = GuideGenDataset(shards, transform=Spacingd(KEYS, (6, 6, 8), mode=("bilinear", "nearest")))[0]
    assert spaced["image"].shape == spaced["label"].shape == (1, 63, 63, 48)
    for key in KEYS:
        assert np.allclose(spaced[key].pixdim, (6, 6, 8))
    before = ShardReader(shards)[0].volumes_ml()
    after = np.bincount(spaced["label"].numpy().astype(int).ravel(), minlength=21) * 6 * 6 * 8 / 1000
    for name in ("liver", "lung", "spleen"):
        assert after[TORSO.id_of(name)] == pytest.approx(before[name], rel=0.1)


def test_orientationd_turns_the_arrays_and_leaves_the_patient_where_he_was(shards) -> None:
    turned = GuideGenDataset(shards, transform=Orientationd(KEYS, axcodes="LPI", labels=None))[0]
    case = ShardReader(shards)[0]
    assert np.array_equal(turned["image"][0], case.ct_hu[::-1, ::-1, ::-1])
    corner = np.array([31, 31, 31, 1.0])
    assert np.allclose(turned["label"].affine.numpy() @ [0, 0, 0, 1.0], case.affine @ corner)


def test_rand_crop_by_pos_neg_label_centres_patches_on_labels(shards) -> None:
    crop = RandCropByPosNegLabeld(KEYS, "label", (9, 9, 9), pos=1, neg=0, num_samples=6)
    crop.set_random_state(0)
    patches = GuideGenDataset(shards, transform=crop)[2]
    assert len(patches) == 6
    # The crop is moved inwards at a border, so the centre is labelled wherever the patch is not.
    assert sum(bool(p["label"][0, 4, 4, 4]) for p in patches) >= 4
    assert all(p["label"].any() for p in patches)
    batch = next(iter(DataLoader(GuideGenDataset(shards, transform=crop), batch_size=2)))
    assert batch["image"].shape == (12, 1, 9, 9, 9)


def test_invertd_brings_a_prediction_back_to_the_cases_own_grid(shards) -> None:
    there = Compose(
        [Orientationd(KEYS, axcodes="LAS", labels=None), Spacingd(KEYS, (6, 6, 6), mode=("bilinear", "nearest"))]
    )
    item = GuideGenDataset(shards, transform=there)[1]
    item["prediction"] = item["label"].clone()
    back = Invertd("prediction", there, orig_keys="label", nearest_interp=True, to_tensor=True)(item)["prediction"]
    case = ShardReader(shards)[1]
    assert back.shape == (1, 32, 32, 32)
    assert np.allclose(back.affine, case.affine)
    assert (back[0].numpy() == case.label_map).mean() > 0.99
