"""nnU-Net's folders with toy data in them."""

from pathlib import Path

import pytest
from nnunet_support.command import run_command
from nnunet_support.toy_data import write_real, write_shards

SHIM = Path(__file__).parent.parent / "torchvision_shim"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with nnU-Net's three roots, five real toy cases as data set 901 and four synthetic ones as shards."""
    folder = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (folder / name).mkdir()
            patch.setenv(f"nnUNet_{name}", str(folder / name))
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.setenv("nnUNet_n_proc_DA", "0")
        patch.setenv("nnUNet_compile", "f")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(SHIM))
        patch.delenv("nnUNet_extTrainer", raising=False)
        patch.delenv("GUIDEGEN_NNUNET_FRACTION", raising=False)
        write_real(folder / "raw" / "Dataset901_Toy")
        write_shards(folder / "shards")
        yield folder


@pytest.fixture(scope="module")
def merged(world):
    assert run_command("export", world / "shards", "--real", "901", "--id", 902, "--name", "Mix") == 0
    return world / "raw" / "Dataset902_Mix"
