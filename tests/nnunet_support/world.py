"""nnU-Net's folders with toy data in them: made once for all test files, found by the environment in each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nnunet_support.command import run_command
from nnunet_support.commands import nnunet
from nnunet_support.tiny_plans import write_tiny_plans
from nnunet_support.toy_data import write_real, write_shards

SHIM = Path(__file__).parent.parent / "torchvision_shim"


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """nnU-Net's variables point into the folder; one process for everything, no setting of ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("GUIDEGEN_NNUNET_")]:
            patch.delenv(name)
        for name in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{name}", str(folder / name))
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.setenv("nnUNet_n_proc_DA", "0")
        patch.setenv("nnUNet_compile", "f")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(SHIM))
        patch.delenv("nnUNet_extTrainer", raising=False)
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """nnU-Net's three roots, five real toy cases as data set 901 and four synthetic ones as shards."""
    folder = tmp_path_factory.mktemp("nnunet")
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir()
    write_real(folder / "raw" / "Dataset901_Toy")
    write_shards(folder / "shards")
    return folder


@pytest.fixture(scope="session")
def merged(made):
    """The raw data set of both."""
    with environment(made):
        assert run_command("export", made / "shards", "--real", "901", "--id", 902, "--name", "Mix") == 0
    return made / "raw" / "Dataset902_Mix"


@pytest.fixture(scope="session")
def planned(made, merged):
    """The preprocessed folder of the merged data set, with a tiny network beside the plans of nnU-Net."""
    with environment(made):
        assert run_command("plan", 902, "--processes", 1, "-c", "2d", "3d_fullres") == 0
    folder = made / "preprocessed" / merged.name
    write_tiny_plans(folder)
    return folder


@pytest.fixture(scope="session")
def planned_alone(made):
    """The preprocessed folder of the real data set, planned by nnU-Net's own command."""
    with environment(made):
        plan = ("-d", 901, "--verify_dataset_integrity", "-npfp", 1, "-np", 1, "-c", "2d", "3d_fullres")
        status, output = nnunet(
            "nnUNetv2_plan_and_preprocess", *plan, environment=os.environ | {"nnUNet_n_proc_DA": "1"}
        )
    assert status == 0, output
    folder = made / "preprocessed" / "Dataset901_Toy"
    write_tiny_plans(folder)
    return folder


@pytest.fixture(scope="module")
def world(made):
    """The folder of them all, with the environment pointing to it."""
    with environment(made):
        yield made
