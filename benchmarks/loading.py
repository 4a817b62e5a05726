"""Cases a second of our data sets beside plain nibabel and webdataset: python -m benchmarks.loading SHARDS."""

from __future__ import annotations

import argparse
import gzip
import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import webdataset as wds

from benchmarks.record import save
from guidegen_data import GuideGenDataset, ShardReader

Arrays = tuple[torch.Tensor, torch.Tensor]
_COMPARED = (
    ("random_access_over_nibabel", "ours_random", "nibabel"),
    ("streaming_over_webdataset", "ours_in_order", "webdataset"),
)


def unpack(shards: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Every case's CT and label map as the loose .nii.gz files they would be without shards."""
    reader, pairs = ShardReader(shards), []
    for position in range(len(reader)):
        tar, key = reader.locate(position)
        members = tar.members(key)
        pair = (folder / f"{key}.ct.nii.gz", folder / f"{key}.label.nii.gz")
        for path, suffix in zip(pair, ("ct.nii.gz", "label.nii.gz"), strict=True):
            path.write_bytes(members[suffix])
        pairs.append(pair)
    return pairs


def as_tensors(ct: Any, label: Any) -> Arrays:
    """(1, X, Y, Z) float32 and uint8 of two nibabel images: what a training needs, and no more."""
    image = torch.from_numpy(np.asarray(ct.dataobj, dtype=np.float32)[None])
    return image, torch.from_numpy(np.asarray(label.dataobj, dtype=np.uint8)[None])


def read_by_nibabel(pairs: list[tuple[Path, Path]], order: list[int]) -> Iterator[Arrays]:
    """Loose files through nibabel, as its documentation does it."""
    for position in order:
        yield as_tensors(nib.load(pairs[position][0]), nib.load(pairs[position][1]))


def read_by_webdataset(shards: Path) -> Iterator[Arrays]:
    """The shards as a webdataset stream, with the usual decoder of a .nii.gz in memory."""
    tars = sorted(str(p) for p in shards.glob("shard-*.tar"))

    def decode(data: bytes) -> Any:
        return nib.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(data)))

    for sample in wds.WebDataset(tars, shardshuffle=False):
        yield as_tensors(decode(sample["ct.nii.gz"]), decode(sample["label.nii.gz"]))


def read_by_us(dataset: GuideGenDataset, order: list[int]) -> Iterator[Arrays]:
    """Whole items, with checksums checked, metadata and affines."""
    for position in order:
        item = dataset[position]
        yield item["image"], item["label"]


def cases_a_second(read: Callable[[], Iterator[Arrays]], expected: int) -> tuple[float, float]:
    """Throughput of one pass, by the clock and by the processor's time, which other programs disturb less."""
    began, began_cpu = time.perf_counter(), time.process_time()
    num = sum(1 for _ in read())
    assert num == expected, f"{num} cases read, {expected} expected"
    return num / (time.perf_counter() - began), num / (time.process_time() - began_cpu)


def compare(shards: Path, repeats: int, seed: int) -> dict[str, Any]:
    """Median cases a second of each reader, and ours over theirs within each round, as a median."""
    dataset = GuideGenDataset(shards)
    order = list(range(len(dataset)))
    shuffled = random.Random(seed).sample(order, len(order))
    with tempfile.TemporaryDirectory() as folder:
        pairs = unpack(shards, Path(folder))
        readers: dict[str, Callable[[], Iterator[Arrays]]] = {
            "nibabel": lambda: read_by_nibabel(pairs, shuffled),
            "ours_random": lambda: read_by_us(dataset, shuffled),
            "webdataset": lambda: read_by_webdataset(shards),
            "ours_in_order": lambda: read_by_us(dataset, order),
        }
        for ours, theirs in (("ours_random", "nibabel"), ("ours_in_order", "webdataset")):
            for one, other in zip(readers[ours](), readers[theirs](), strict=True):
                assert all(torch.equal(torch.as_tensor(a), b) for a, b in zip(one, other, strict=True)), theirs
        # In turns, so that whatever else the machine does meets all of them alike.
        rounds = [{name: cases_a_second(read, len(order)) for name, read in readers.items()} for _ in range(repeats)]
    figures: dict[str, Any] = {
        "num_cases": len(order),
        "shape": list(dataset[0]["image"].shape[1:]),
        "repeats": repeats,
    }
    for which, name in enumerate(("cases_a_second", "cases_a_processor_second")):
        figures[name] = {r: round(statistics.median(each[r][which] for each in rounds), 2) for r in readers}
    for name, ours, theirs in _COMPARED:
        for which, unit in enumerate(("", "_by_processor_time")):
            ratios = [each[ours][which] / each[theirs][which] for each in rounds]
            figures[name + unit] = round(statistics.median(ratios), 3)
    return figures


def main() -> None:
    """Measures and writes results/loading.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, help="folder of guidegen-shard")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    save("loading", compare(args.shards, args.repeats, args.seed), args.seed)


if __name__ == "__main__":
    main()
