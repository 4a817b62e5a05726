"""Runs of the stages on little patients, as short as a test wants them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import little_patients

from guidegen_data.cli.main import main


def train_little(
    folder: Path, patients: int, validation_share: str, short: Sequence[str], extra: Mapping[str, Sequence[str]]
) -> None:
    """`prepared` in a folder, of so many patients, and beside it a run of the autoencoder, of the masks, of every stage
    of `extra`, and of the slices, each with the words `short` and its own of `extra`."""
    little_patients.write_nifti(folder / "src", patients)
    data, table = str(folder / "prepared"), str(folder / "src" / "anatomy.yaml")
    words = ["prepare", "nifti", str(folder / "src"), data, "--anatomy", table]
    assert main([*words, "--validation-share", validation_share]) == 0
    extra = {**extra, "slices": ["--autoencoder", str(folder / "autoencoder")]}
    for stage in dict.fromkeys(("autoencoder", "masks", *extra)):
        assert main(["train", stage, data, str(folder / stage), *extra.get(stage, []), *short]) == 0
