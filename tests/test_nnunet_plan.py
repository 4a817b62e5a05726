"""What `guidegen nnunet plan` leaves for the trainings after it: readers, labels to score against, the next command."""

import json
import multiprocessing
import shutil
from argparse import Namespace
from multiprocessing.pool import ThreadPool

import nibabel as nib
import numpy as np
import pytest
from nnunet_support.command import run_command
from nnunet_support.toy_data import write_real

pytest.importorskip("nnunetv2")
pytest_plugins = ["nnunet_support.world"]

from guidegen_nnunet import plan  # noqa: E402
from guidegen_nnunet.folders import NnUNetError, read_json, read_raw_dataset  # noqa: E402


@pytest.fixture
def in_threads(monkeypatch) -> None:
    """nnU-Net's worker processes are threads of this one: each of them would import it anew."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: Namespace(Pool=ThreadPool))


def write_sheared(folder) -> None:
    """A real data set whose images' axes are not at right angles, as a tilted gantry leaves them."""
    write_real(folder)
    for path in [*folder.glob("*Tr/*.nii.gz")]:
        image = nib.load(path)
        affine = image.affine.copy()
        affine[1, 2] = 0.5
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)


def test_what_nnunet_takes_alone_it_takes_with_synthetic_cases_and_plans_alike(world, in_threads, monkeypatch):
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    real = world / "raw" / "Dataset930_Sheared"
    write_sheared(real)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # nnU-Net cannot plan with 0
    nnunet.extract_fingerprint_dataset(930, num_processes=1, check_dataset_integrity=True)
    alone, _ = nnunet.plan_experiment_dataset(930)
    assert alone["image_reader_writer"] == "NibabelIO"
    assert run_command("export", world / "shards", "--real", 930, "--id", 931, "--name", "Mixed") == 0
    # In the order of names a synthetic case is the first, and it is one that SimpleITK reads.
    assert next(iter(read_raw_dataset(world / "raw" / "Dataset931_Mixed").cases)) == "guidegen_000000000"
    assert run_command("plan", 931, "--processes", 1) == 0
    preprocessed = world / "preprocessed" / "Dataset931_Mixed"
    ours = read_json(preprocessed / "nnUNetPlans.json")
    assert ours.pop("guidegen")["num_real_cases"] == 5
    assert ours == read_json(world / "preprocessed" / "Dataset930_Sheared" / "nnUNetPlans.json") | {
        "dataset_name": "Dataset931_Mixed"
    }
    assert len([*(preprocessed / "nnUNetPlans_3d_fullres").glob("*.pkl")]) == 9


@pytest.mark.parametrize("given", ["NibabelIOWithReorient", "NoSuchReader", "None"])
def test_a_reader_that_the_real_data_set_names_is_kept_where_nnunet_would_take_it(world, given):
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    number = {"NibabelIOWithReorient": 932, "NoSuchReader": 934, "None": 936}[given]
    real = world / "raw" / f"Dataset{number}_Named"
    write_real(real)
    description = read_json(real / "dataset.json") | {"overwrite_image_reader_writer": given}
    (real / "dataset.json").write_text(json.dumps(description))
    assert run_command("export", world / "shards", "--real", number, "--id", number + 1, "--name", "Mixed") == 0
    merged = read_raw_dataset(world / "raw" / f"Dataset{number + 1}_Mixed")
    chosen = determine_reader_writer_from_dataset_json(description, str(real / "imagesTr" / "patient_0_0000.nii.gz"))
    assert merged.dataset_json["overwrite_image_reader_writer"] == chosen.__name__


def test_real_images_that_nnunet_cannot_read_are_refused_before_anything_is_written(world):
    real = world / "raw" / "Dataset938_Series"
    write_sheared(real)
    for path in real.glob("imagesTr/*.nii.gz"):  # with an axis of time as well
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine), path)
    with pytest.raises(NnUNetError, match=r"nnU-Net has no reader for .*patient_0_0000.nii.gz"):
        run_command("export", world / "shards", "--real", 938, "--id", 939, "--name", "Mixed")
    assert not [*(world / "raw").glob("*939_*")]


def test_labels_to_score_against_are_those_of_the_data_set_as_it_is_now(world, planned, monkeypatch):
    """nnU-Net copies newer ones alone, and a label that was put back is older than the copy of the one before it."""
    monkeypatch.setattr(
        "nnunetv2.preprocessing.preprocessors.default_preprocessor.DefaultPreprocessor.run", lambda *a, **k: None
    )
    for step in ("_verify", "_extract_fingerprint"):
        monkeypatch.setattr(plan, step, lambda *arguments: None)
    dataset, scored = read_raw_dataset(world / "raw" / planned.name), planned / "gt_segmentations"
    current = {f"{identifier}.nii.gz": label.read_bytes() for identifier, (_, label) in dataset.cases.items()}
    assert {p.name: p.read_bytes() for p in scored.iterdir()} == current
    untouched = (scored / "patient_1.nii.gz").stat().st_ino
    shutil.copy(scored / "patient_1.nii.gz", scored / "patient_0.nii.gz")  # newer than that of the data set
    shutil.copy(scored / "patient_1.nii.gz", scored / "patient_99.nii.gz")
    assert run_command("plan", 902, "--processes", 1) == 0
    assert {p.name: p.read_bytes() for p in scored.iterdir()} == current
    assert (scored / "patient_1.nii.gz").stat().st_ino == untouched


@pytest.mark.parametrize(
    ("planner", "words"),
    [("ExperimentPlanner", ""), ("nnUNetPlannerResEncM", " -p nnUNetResEncUNetMPlans")],
)
def test_the_command_that_it_prints_names_plans_that_nnunet_would_not_take_itself(
    planned, monkeypatch, capsys, planner, words
):
    for step in ("_verify", "_extract_fingerprint", "_preprocess"):
        monkeypatch.setattr(plan, step, lambda *arguments: None)
    assert run_command("plan", 902, "-c", "2d", "--planner", planner) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"next: nnUNetv2_train Dataset902_Mix 2d 0 -tr nnUNetTrainerGuideGen{words}"
