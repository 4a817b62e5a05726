"""The SegResNet example, run as a user runs it, in a small size."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ellipsoids import EllipsoidGenerator
from PIL import Image

from benchmarks.examples import segresnet_mixed as example
from guidegen_data import GuideGenDataset
from guidegen_data.label_maps import Projection

LABELS = {"lung": 1, "liver": 2}


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Four cases as files, in another orientation and on another grid than the shards."""
    folder = tmp_path / "real"
    folder.mkdir()
    generator = EllipsoidGenerator(misses=0)
    dataset = GuideGenDataset(model=generator, n=4, seed=77, cache_dir=tmp_path / "cache", device="cpu")
    project = Projection.from_map(generator.anatomy, LABELS)
    for i in range(4):
        item = dataset[i]
        affine = item["image"].affine.numpy().copy()
        affine[0] *= -1
        labels = project(item["label"][0].numpy(), (12.0, 12.0, 12.0))
        for name, array in (("ct", item["image"][0].numpy().astype(np.int16)), ("label", labels)):
            nib.save(nib.Nifti1Image(array, affine), folder / f"patient{i}_{name}.nii.gz")
    return folder


def test_the_example_learns_from_mixed_data_and_draws_its_dice(real, shards, tmp_path, capsys) -> None:
    curve = tmp_path / "dice.png"
    sizes = ["--patch", "16", "--spacing-mm", "12", "--init-filters", "8", "--batch-size", "1", "--epochs", "6"]
    arguments = [str(real), str(shards), "--label-map", "lung=1,liver=2", "--out", str(curve), "--device", "cpu"]
    assert example.main(arguments + sizes) == 0
    lines = capsys.readouterr().out.splitlines()
    dice = [float(line.split("Dice ")[1]) for line in lines if line.startswith("epoch")]
    assert len(dice) == 6
    assert max(dice[-3:]) > max(0.2, dice[0])
    with Image.open(curve) as image:
        assert image.size == (720, 480)


def test_what_does_not_fit_is_told_in_one_sentence(shards, tmp_path, capsys) -> None:
    assert example.main([str(tmp_path), str(shards), "--label-map", "lung=1"]) == 1
    assert "expected two real cases or more" in capsys.readouterr().err
