"""The MONAI data sets: the dict of the contract, any transform, any loader, the same cases as the shards."""

import json
import pickle
from dataclasses import dataclass, replace
from itertools import islice

import fsspec
import numpy as np
import pytest
import torch
from ellipsoids import EllipsoidGenerator
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, Orientationd, RandCropByPosNegLabeld, ScaleIntensityRanged
from torch.utils.data import ConcatDataset
from torch.utils.data import DataLoader as TorchDataLoader

from guidegen_data.anatomy import TORSO
from guidegen_data.dataset import GuideGenDataset, GuideGenStream
from guidegen_data.errors import LabelMapError, ReportError, ShardError
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.findings import Findings
from guidegen_data.shards.manifest import key_of
from guidegen_data.shards.reader import ShardReader, TarCases
from guidegen_data.shards.storage import LocalFolder

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


# -- which shards


def test_shards_may_be_tars_patterns_and_lists_on_disk_or_behind_a_url(shards) -> None:
    keys = [key_of(i) for i in range(10)]
    memory = fsspec.filesystem("memory")
    for file in shards.iterdir():
        if file.is_file():
            memory.pipe_file(f"/run/{file.name}", file.read_bytes())
    for given, expected in (
        (str(shards / "shard-000001.tar"), keys[3:6]),
        (f"{shards}/shard-{{000000..000003}}.tar", keys),
        (f"{shards}/shard-00000[02].tar", keys[:3] + keys[6:9]),
        ([shards / "shard-000003.tar", f"{shards}/shard-000000.tar"], keys[9:] + keys[:3]),
        ("memory://run", keys),
        ("memory://run/shard-*.tar", keys),
        ([f"{shards}/shard-000000.tar", "memory://run/shard-{000001..000003}.tar"], keys),
    ):
        dataset = GuideGenDataset(given)
        assert [dataset[i]["meta"]["key"] for i in range(len(dataset))] == expected
    memory.rm("/run", recursive=True)


def test_tars_that_lie_without_their_index_are_read_all_the_same(shards, tmp_path) -> None:
    for name in ("shard-000000.tar", "shard-000003.tar"):
        (tmp_path / name).write_bytes((shards / name).read_bytes())
    dataset = GuideGenDataset(f"{tmp_path}/*.tar")
    assert [dataset[i]["meta"]["key"] for i in (0, 3, -1)] == [key_of(i) for i in (0, 9, 9)]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("{0}/nothing-*.tar", "no file matches"),
        ("{0}/shard-{{000.tar", "do not close"),
        (["{0}/shard-000000.tar", "{0}"], "named twice"),
        ([], "at least one case"),
        ("{0}/shard-000009.tar", "is missing"),
        ("{0}/elsewhere", "no shard folder"),
    ],
)
def test_shards_that_are_not_there_or_twice_are_refused(shards, given, sentence: str) -> None:
    named = [g.format(shards) for g in given] if isinstance(given, list) else given.format(shards)
    with pytest.raises(ShardError, match=sentence):
        GuideGenDataset(named)


def test_random_access_reads_the_bytes_of_one_case_and_the_headers_once(shards, monkeypatch) -> None:
    read: list[int] = []
    opened = LocalFolder.open

    class Counting:
        def __init__(self, file) -> None:
            self.file = file

        def read(self, size: int = -1) -> bytes:
            data = self.file.read(size)
            read.append(len(data))
            return data

        def __getattr__(self, name: str):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error) -> None:
            self.file.close()

    dataset = GuideGenDataset(shards)
    monkeypatch.setattr(LocalFolder, "open", lambda self, name: Counting(opened(self, name)))
    tar = TarCases(shards, "shard-000001.tar")
    num_members = 3 * 4
    assert sum(read) <= (num_members + 3) * 512
    for position in (4, 4):
        dataset[position]
        read.clear()
    dataset[4]
    assert sum(read) == sum(len(data) for data in tar.members(key_of(4)).values())


# -- labels and reports


def test_labels_are_projected_onto_the_users_own_or_a_public_set(shards, generator, tmp_path) -> None:
    ours = ShardReader(shards)[0].label_map
    wanted = {"liver": 1, "lung": 2, "tumour": 3}
    for dataset in (
        GuideGenDataset(shards, label_map=wanted),
        GuideGenDataset(model=generator, n=1, seed=1, cache_dir=tmp_path, device="cpu", label_map=wanted),
    ):
        label = dataset[0]["label"]
        assert label.dtype == torch.uint8
        assert np.array_equal(label[0] == 2, ours == TORSO.id_of("lung"))
        assert np.array_equal(label[0] == 3, ours == TORSO.lesion_id)
        assert dataset.labels == wanted
    streamed = next(iter(GuideGenStream(generator, seed=1, device="cpu", label_map="btcv")))
    assert np.array_equal(streamed["label"][0] == 8, ours == TORSO.id_of("aorta"))
    with_ignored = GuideGenDataset(shards, label_map="totalsegmentator_v2", ignore_label=255)
    assert np.array_equal(
        with_ignored[0]["label"][0] == 255, np.isin(ours, [TORSO.id_of(n) for n in ("lung", "vertebrae", "rib")])
    )
    assert GuideGenDataset(shards, label_map={"liver": 300})[0]["label"].dtype == torch.int32


def test_a_label_map_that_cannot_be_is_refused_before_the_first_item(shards, generator) -> None:
    for wrong in ({"kidney": 1, "right kidney": 2}, {"lever": 1}, "totalsegmentator_v2", "flare"):
        with pytest.raises(LabelMapError):
            GuideGenDataset(shards, label_map=wrong)
        with pytest.raises(LabelMapError):
            GuideGenStream(generator, device="cpu", label_map=wrong)


def test_report_tokens_are_those_of_the_report_padded_to_one_length(shards) -> None:
    dataset = GuideGenDataset(shards, report_tokens=64)
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch["report_tokens"].shape == batch["report_mask"].shape == (4, 64)
    tokenizer = TextEncoder().tokenizer
    for row, mask, report in zip(batch["report_tokens"], batch["report_mask"], batch["report"], strict=True):
        assert row[mask].tolist() == tokenizer(report, truncation=True, max_length=64)["input_ids"]
    assert "report_tokens" not in GuideGenDataset(shards)[0]
    with pytest.raises(ReportError, match="report_tokens"):
        GuideGenDataset(shards, report_tokens=-1)


def _letters(report: str, *, padding: str, truncation: bool, max_length: int) -> dict[str, list[int]]:
    ids = [ord(letter) for letter in report[:max_length]]
    return {
        "input_ids": ids + [0] * (max_length - len(ids)),
        "attention_mask": [int(i < len(ids)) for i in range(max_length)],
    }


def test_report_tokens_may_come_from_another_tokenizer(shards) -> None:
    item = GuideGenDataset(shards, report_tokens=12, tokenizer=_letters)[0]
    assert "".join(map(chr, item["report_tokens"].tolist())) == item["report"][:12]


# -- epochs, processes and devices


def test_a_slice_or_a_list_gives_a_subset(shards) -> None:
    dataset = GuideGenDataset(shards)
    assert [item["meta"]["index"] for item in dataset[2:8:3]] == [2, 5]
    assert [item["meta"]["index"] for item in dataset[[7, 1]]] == [7, 1]
    with pytest.raises(IndexError):
        dataset[10]


def test_epochs_of_a_stream_are_their_own_and_can_be_taken_up_again(generator) -> None:
    stream = GuideGenStream(generator, seed=1, device="cpu")

    def seeds(epoch: int) -> list[int]:
        stream.set_epoch(epoch)
        return [item["meta"]["case_seed"] for item in islice(stream, 5)]

    epochs = [seeds(e) for e in range(3)]
    assert len({s for e in epochs for s in e}) == 15
    assert seeds(1) == epochs[1]
    with pytest.raises(ShardError, match="count from 0"):
        stream.set_epoch(-1)


def test_processes_of_a_distributed_training_share_no_case_of_a_stream(generator, monkeypatch) -> None:
    seen = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        stream = GuideGenStream(generator, seed=1, device="cpu")
        seen += [item["meta"]["index"] for item in islice(stream, 8)]
    assert sorted(seen) == list(range(16))


@dataclass(frozen=True)
class OnGpu(EllipsoidGenerator):
    """Says that it lies on a GPU, where a forked process cannot reach it."""

    device: str = "cuda"


def test_workers_may_be_forked_or_spawned_but_a_model_on_a_gpu_is_refused_in_a_forked_one(
    shards, generator, tmp_path
) -> None:
    made = GuideGenDataset(model=generator, n=4, seed=1, cache_dir=tmp_path, device="cpu")
    on_gpu = GuideGenDataset(model=OnGpu(misses=0), n=4, cache_dir=tmp_path)
    stored = GuideGenDataset(shards)

    def first_keys(parts: list, context: str) -> list[str]:
        # Starting a process anew takes seconds: all of them in one.
        everything = ConcatDataset([part[:1] for part in parts])
        loader = TorchDataLoader(everything, batch_size=None, num_workers=1, multiprocessing_context=context)
        return [item["meta"]["key"] for item in loader]

    assert first_keys([stored, made], "fork") == [key_of(0)] * 2
    assert first_keys([stored, made, on_gpu], "spawn") == [key_of(0)] * 3
    for dataset in (GuideGenDataset(model=OnGpu(misses=1), n=4, cache_dir=tmp_path), GuideGenStream(OnGpu())):
        loader = TorchDataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
        with pytest.raises(ShardError, match="multiprocessing_context='spawn'"):
            next(iter(loader))
