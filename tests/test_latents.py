"""Latents that a run of slices keeps: they are of one autoencoder and of certain cases, and say so."""

import shutil
from pathlib import Path

import little_patients
import pytest
import torch

from guidegen_data.anatomy import Anatomy
from guidegen_data.anatomy_files import read_anatomy
from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.text import TextEncoder
from guidegen_data.training.latents import LatentData, load_latent_data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Four training patients. Not to be written to."""
    folder = tmp_path_factory.mktemp("latents")
    little_patients.write_nifti(folder / "src", 4)
    table = str(folder / "src" / "anatomy.yaml")
    words = ["prepare", "nifti", str(folder / "src"), str(folder / "out"), "--anatomy", table]
    assert main([*words, "--validation-share", "0"]) == 0
    return folder / "out"


def autoencoder(seed: int) -> CTAutoencoder:
    torch.manual_seed(seed)
    return CTAutoencoder(latent_channels=2, block_out_channels=(8, 8)).eval()


def latents(prepared: Path, cache: Path, seed: int = 0, leave_out: tuple[str, ...] = ()) -> LatentData:
    table: Anatomy = read_anatomy(prepared / "anatomy.yaml")
    network = autoencoder(seed)
    data = load_latent_data(prepared, table, network, TextEncoder(), cache, leave_out=leave_out)
    assert network.latent_mean.any()
    return data


def test_what_is_kept_is_of_one_autoencoder_and_of_certain_cases(prepared, tmp_path) -> None:
    cache = tmp_path / "latents.pt"
    made, written = latents(prepared, cache), cache.read_bytes()
    with pytest.raises(ModelError, match=f"{tmp_path} was begun with another autoencoder; use the same as then"):
        latents(prepared, cache, seed=1)
    with pytest.raises(ModelError, match=f"{tmp_path} was begun with other cases; use the same as then"):
        latents(prepared, cache, leave_out=("p1",))
    assert cache.read_bytes() == written
    shutil.copytree(prepared, tmp_path / "moved")
    assert torch.equal(latents(tmp_path / "moved", cache).latents, made.latents)
    assert cache.read_bytes() == written


def test_what_does_not_tell_what_it_is_of_is_made_again_where_its_statistics_are_the_same(prepared, tmp_path) -> None:
    cache = tmp_path / "latents.pt"
    made = latents(prepared, cache)
    held = torch.load(cache, weights_only=True)
    earlier = {name: value for name, value in held.items() if name not in ("autoencoder", "cases")}
    torch.save(earlier | {"latents": torch.zeros_like(made.latents)}, cache)
    written = cache.read_bytes()
    with pytest.raises(ModelError, match="of whose latents the mean and deviation were others"):
        latents(prepared, cache, seed=1)
    assert cache.read_bytes() == written
    assert torch.equal(latents(prepared, cache).latents, made.latents)
    assert torch.load(cache, weights_only=True)["autoencoder"] == held["autoencoder"]


def test_cases_that_are_left_out_have_no_latents(prepared, tmp_path) -> None:
    whole, some = latents(prepared, tmp_path / "whole.pt"), latents(prepared, tmp_path / "some.pt", 0, ("p0", "p2"))
    assert (len(whole.latents), len(some.latents)) == (4, 2)
    assert torch.equal(some.labels, whole.labels[1::2])
