"""Stage 1 keeps what it read of a prepared folder, and reads again when the files are others."""

import os
import shutil

import pytest
import torch
from little_patients import write_nifti
from test_prepare import command

from guidegen_data.anatomy_files import read_anatomy
from guidegen_data.cli.main import main
from guidegen_data.models.text import TextEncoder
from guidegen_data.sources.prepared import case_paths
from guidegen_data.training import masks


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    write_nifti(folder / "src", 4)
    assert main([*command("nifti", folder / "src", folder / "out"), "--validation-share", "0"]) == 0
    return folder / "out"


def test_as_many_other_files_are_read_again_and_the_same_are_not(prepared, tmp_path, monkeypatch) -> None:
    folder = shutil.copytree(prepared / "train", tmp_path / "train")
    anatomy, paths = read_anatomy(prepared / "anatomy.yaml"), case_paths(folder)
    assert len(paths) == 4
    first = masks.load_mask_data(folder, anatomy, TextEncoder(), (16, 16, 16))
    assert not torch.equal(first.labels[0], first.labels[3])
    shutil.copyfile(paths[3], paths[0])
    second = masks.load_mask_data(folder, anatomy, TextEncoder(), (16, 16, 16))
    assert torch.equal(second.labels[0], first.labels[3])
    assert torch.equal(second.labels[1:], first.labels[1:])
    held = paths[0].stat()
    os.utime(paths[0], ns=(held.st_atime_ns, held.st_mtime_ns + 1))
    reads = []
    monkeypatch.setattr(masks, "load_case", lambda path, real=masks.load_case: reads.append(path) or real(path))
    third = masks.load_mask_data(folder, anatomy, TextEncoder(), (16, 16, 16))
    assert reads == paths, "a file of the same size may hold another case"
    reads.clear()
    again = masks.load_mask_data(folder, anatomy, TextEncoder(), (16, 16, 16))
    assert reads == []
    assert torch.equal(again.labels, third.labels)
