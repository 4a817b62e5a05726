"""The MONAI data sets: the dict of the contract, any transform, any loader, the same cases as the shards."""

import json
import pickle
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from ellipsoids import EllipsoidGenerator
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, Orientationd, RandCropByPosNegLabeld, ScaleIntensityRanged
from torch.utils.data import DataLoader as TorchDataLoader

from guidegen_data.dataset import GuideGenDataset, GuideGenStream
from guidegen_data.errors import ShardError
from guidegen_data.reports.findings import Findings
from guidegen_data.shards.manifest import key_of
from guidegen_data.shards.reader import ShardReader

scale = ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True)
crop = Compose([scale, RandCropByPosNegLabeld(["image", "label"], "label", (16, 16, 16), num_samples=2)])


@pytest.fixture
def made(generator: EllipsoidGenerator, tmp_path) -> GuideGenDataset:
    return GuideGenDataset(model=generator, n=10, seed=1, cache_dir=tmp_path, device="cpu")


def test_items_are_the_dict_of_the_contract(shards) -> None:
    dataset = GuideGenDataset(shards)
    assert len(dataset) == 10
    for item, case in zip([dataset[i] for i in range(10)], ShardReader(shards), strict=True):
        image, label = item["image"], item["label"]
        assert isinstance(image, MetaTensor)
        assert isinstance(label, MetaTensor)
        assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)
        assert image.shape == label.shape == (1, 32, 32, 32)
        assert np.array_equal(image[0].numpy(), case.ct_hu)
        assert np.array_equal(label[0].numpy(), case.label_map)
        assert torch.equal(image.affine, label.affine)
        assert np.array_equal(image.affine.numpy(), case.affine)
        assert item["report"] == case.report
        assert item["meta"]["key"] == case.key
        assert Findings.from_dict(json.loads(item["meta"]["findings"])) == case.findings


def test_every_tensor_has_a_file_name_of_its_own(shards) -> None:
    dataset = GuideGenDataset(shards)
    names = [dataset[i][part].meta["filename_or_obj"] for i in range(10) for part in ("image", "label")]
    assert len(set(names)) == 20


def test_on_the_fly_gives_the_very_cases_of_the_shards(made: GuideGenDataset, shards) -> None:
    stored = GuideGenDataset(shards)
    for i in (9, 0, 5, -1):
        assert torch.equal(made[i]["image"], stored[i]["image"])
        assert torch.equal(made[i]["label"], stored[i]["label"])
        assert made[i]["meta"] == stored[i]["meta"]


def test_cases_are_generated_on_first_use_and_kept(generator: EllipsoidGenerator, tmp_path) -> None:
    traced = replace(generator, misses=0, trace=tmp_path / "trace")

    def open_it(n: int) -> GuideGenDataset:
        return GuideGenDataset(model=traced, n=n, cache_dir=tmp_path, device="cpu")

    dataset = open_it(10)
    assert not traced.trace.exists()
    for i in (5, 6, 5):
        dataset[i]
    open_it(7)[4]
    assert traced.trace.read_text().split()[1:] == [key_of(i) for i in (4, 5, 6, 7)]


def test_another_seed_or_model_gets_other_cases_from_the_same_cache(generator, tmp_path) -> None:
    images = [
        GuideGenDataset(model=model, n=1, seed=seed, cache_dir=tmp_path, device="cpu")[0]["image"]
        for model, seed in ((generator, 1), (generator, 2), (replace(generator, misses=0, version="2"), 1))
    ]
    assert not torch.equal(images[0], images[1])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_transform_that_returns_a_list_passes_through_to_the_loader(shards) -> None:
    dataset = GuideGenDataset(shards, transform=crop)
    assert [item["image"].shape for item in dataset[0]] == [(1, 16, 16, 16)] * 2
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch["image"].shape == (6, 1, 16, 16, 16)
    assert isinstance(batch["image"], MetaTensor)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("loader", [DataLoader, TorchDataLoader])
def test_loaders_collate_whole_cases(shards, loader: type, num_workers: int) -> None:
    batches = list(loader(GuideGenDataset(shards), batch_size=4, num_workers=num_workers))
    assert [len(b["report"]) for b in batches] == [4, 4, 2]
    assert [k for b in batches for k in b["meta"]["key"]] == [key_of(i) for i in range(10)]
    assert batches[0]["image"].shape == (4, 1, 32, 32, 32)


def test_workers_that_want_the_same_block_make_it_once(generator, tmp_path) -> None:
    traced = replace(generator, misses=0, pause_s=0.2, trace=tmp_path / "trace")
    dataset = GuideGenDataset(model=traced, n=8, cache_dir=tmp_path, device="cpu")
    keys = [item["meta"]["key"][0] for item in DataLoader(dataset, num_workers=2)]
    assert keys == [key_of(i) for i in range(8)]
    assert len(traced.trace.read_text().splitlines()) == 2


def test_cached_and_reoriented_items_stay_the_same(shards) -> None:
    turned = Orientationd(["image", "label"], axcodes="LPS", labels=None)
    cached = CacheDataset(GuideGenDataset(shards), transform=turned, num_workers=0, progress=False)
    item = cached[2]
    assert np.array_equal(item["image"][0].numpy(), ShardReader(shards)[2].ct_hu[::-1, ::-1])


def test_data_sets_can_be_pickled(shards, made: GuideGenDataset, generator) -> None:
    for dataset in (GuideGenDataset(shards), made):
        before = dataset[3]
        assert torch.equal(pickle.loads(pickle.dumps(dataset))[3]["image"], before["image"])
    stream = GuideGenStream(generator, seed=1, device="cpu")
    copy = pickle.loads(pickle.dumps(stream))
    assert next(iter(copy))["meta"]["key"] == key_of(0)


def test_a_stream_starts_with_the_cases_of_the_shards_and_never_repeats(generator, shards) -> None:
    stream = GuideGenStream(generator, seed=1, device="cpu")
    first = list(islice(stream, 8))
    assert [item["meta"]["key"] for item in first] == [key_of(i) for i in range(8)]
    assert torch.equal(first[6]["image"], GuideGenDataset(shards)[6]["image"])
    assert next(iter(stream))["meta"]["index"] == 8


def test_stream_workers_and_epochs_share_no_case(generator) -> None:
    stream = GuideGenStream(generator, seed=1, device="cpu", transform=scale)
    loader = DataLoader(stream, batch_size=2, num_workers=2)
    seen = [int(i) for _ in range(2) for batch in islice(loader, 4) for i in batch["meta"]["index"]]
    assert len(set(seen)) == len(seen) == 16
    assert set(seen) >= {0, 1, 4, 5}


def test_a_stream_yields_the_items_of_a_list_one_by_one(generator) -> None:
    batch = next(iter(DataLoader(GuideGenStream(generator, transform=crop, device="cpu"), batch_size=4)))
    assert batch["image"].shape == (4, 1, 16, 16, 16)


def test_exactly_one_source_must_be_given(shards, generator) -> None:
    for wrong in ({}, {"shards": shards, "model": generator, "n": 2}, {"model": generator}, {"shards": shards, "n": 2}):
        with pytest.raises(ShardError, match="either a shard folder, or model= and n="):
            GuideGenDataset(**wrong)
    with pytest.raises(ShardError, match="1 or more"):
        GuideGenDataset(model=generator, n=0, device="cpu")
    with pytest.raises(IndexError):
        GuideGenDataset(model=generator, n=2, device="cpu")[2]


def test_a_monai_unet_learns_from_it(shards) -> None:
    torch.manual_seed(0)
    loader = DataLoader(GuideGenDataset(shards, transform=scale), batch_size=2)
    network = UNet(3, 1, 21, channels=(8, 16, 32), strides=(2, 2))
    optimizer, loss_function = torch.optim.Adam(network.parameters(), 5e-3), DiceCELoss(to_onehot_y=True, softmax=True)
    losses = []
    for _ in range(2):
        for batch in loader:
            loss = loss_function(network(batch["image"].as_tensor()), batch["label"].as_tensor())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(losses) == 10
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
