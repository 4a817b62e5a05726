"""nnUNetTrainerGuideGen through nnU-Net's own commands, on toy data on the CPU: training, resuming, prediction."""

import json
import os
import shutil
from argparse import Namespace
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunet_support.commands import fold_folder, log_of, nnunet, start_training, train
from nnunet_support.tiny_plans import NAME as PLANS

pytest.importorskip("nnunetv2")
torch = pytest.importorskip("torch")
pytest_plugins = ["nnunet_support.world"]

from guidegen_nnunet.folders import NnUNetError, is_synthetic  # noqa: E402
from guidegen_nnunet.settings import Settings  # noqa: E402
from guidegen_nnunet.splits import read_folds  # noqa: E402
from guidegen_nnunet.trainer import MixedDataLoader  # noqa: E402

MIXED = "nnUNetTrainerGuideGen"


@pytest.fixture(scope="module")
def trained(world, planned):
    """Folder of fold 0 in 3D after a training that was killed after its first epoch and resumed."""
    killed, output = train(MIXED, "3d_fullres", TEST_KILL_AFTER=1, TEST_VALIDATION=1)
    assert killed == 9, output
    status, output = train(MIXED, "3d_fullres", "--c", TEST_VALIDATION=1)
    assert status == 0, output
    return fold_folder(world, MIXED, "3d_fullres")


# -- settings and loader


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [("FRACTION", text, "fraction from 0 to 1") for text in ("-0.1", "1.5", "half", "nan", "")]
    + [
        ("FRACTION_START", "2", "fraction from 0 to 1"),
        ("EPOCHS", "1e3", "whole number"),
        ("EPOCHS", "-1", "0 or more"),
        ("NUM_KEPT", "0", "1 or more"),
        ("FRACTOIN", "0.5", "is no setting"),
    ],
)
def test_a_setting_that_is_none_is_refused(monkeypatch, name, text, sentence):
    monkeypatch.setenv(f"GUIDEGEN_NNUNET_{name}", text)
    with pytest.raises(NnUNetError, match=sentence):
        Settings.from_environment()


def test_settings_come_from_the_environment(monkeypatch):
    for name, text in (("FRACTION", "0.25"), ("EPOCHS", "250"), ("MODEL", "/models/mine")):
        monkeypatch.setenv(f"GUIDEGEN_NNUNET_{name}", text)
    assert Settings.from_environment() == Settings(fraction=0.25, epochs=250, model="/models/mine")


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(1, 6))
def test_every_batch_has_its_share_of_synthetic_cases_rounded_and_right_on_average(fraction, batch_size):
    loader = object.__new__(MixedDataLoader)
    loader.batch_size = batch_size
    loader.indices = ["a", "b", "c", "guidegen_000000000"]
    loader._data = Namespace(synthetic_fraction=fraction)
    batches = [loader.get_indices() for _ in range(200)]
    counts = [sum(map(is_synthetic, batch)) for batch in batches]
    assert all(len(batch) == batch_size for batch in batches)
    assert all(abs(count - fraction * batch_size) < 1 for count in counts)
    assert abs(np.mean(counts) - fraction * batch_size) < 5 * 0.5 / np.sqrt(200)


def test_synthetic_and_real_cases_share_every_place_of_a_batch():
    loader = object.__new__(MixedDataLoader)
    loader.batch_size, loader.indices = 2, ["a", "guidegen_000000000"]
    loader._data = Namespace(synthetic_fraction=0.5)
    firsts = Counter(loader.get_indices()[0] for _ in range(400))
    assert 140 < firsts["a"] < 260


# -- nnU-Net for real


def test_fingerprint_and_plans_are_those_of_nnunets_own_command_on_the_real_cases(world, planned, planned_alone):
    fingerprints = [json.loads((f / "dataset_fingerprint.json").read_text()) for f in (planned_alone, planned)]
    assert fingerprints[0] == fingerprints[1]
    plans = [json.loads((f / "nnUNetPlans.json").read_text()) for f in (planned_alone, planned)]
    assert plans[1].pop("guidegen")["num_real_cases"] == 5
    assert plans[0] | {"dataset_name": "Dataset902_Mix"} == plans[1]


def test_a_killed_training_resumes_and_carries_its_settings(trained):
    checkpoint = torch.load(trained / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["trainer_name"] == MIXED
    assert checkpoint["current_epoch"] == 2
    kept = {"fraction": 0.5, "num_real": 4, "num_synthetic": 4, "num_epochs": 2, "num_iterations_per_epoch": 6}
    assert checkpoint["init_args"]["guidegen"] == kept
    log = log_of(trained)
    assert log.count("GuideGen: 0.5000 of 24 training patches were synthetic") == 2
    assert log.count(f"GuideGen: {kept}") == 2
    assert [log.count(f"\nEpoch {n}") or log.count(f"Epoch {n} ") for n in (0, 1)] == [1, 1]
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()
    assert len(checkpoint["logging"]["train_losses"]) == 2


def test_validation_runs_on_the_real_cases_of_the_fold(trained, merged):
    validated = {p.name.removesuffix(".nii.gz") for p in (trained / "validation").glob("*.nii.gz")}
    assert validated == set(read_folds(merged / "splits_final.json")[0]["val"])
    assert not any(map(is_synthetic, validated))


def test_a_resumed_training_with_another_fraction_is_refused(trained):
    status, output = train(MIXED, "3d_fullres", "--c", GUIDEGEN_NNUNET_FRACTION=0.25)
    assert status != 0
    assert "but would go on with" in output
    assert "set GUIDEGEN_NNUNET_FRACTION=0.5, or begin a new one without --c" in output


def test_the_trained_model_predicts_and_is_evaluated(world, trained):
    images, truth, predicted = world / "imagesTs", world / "labelsTs", world / "predicted"
    raw = world / "raw" / "Dataset901_Toy"
    for folder, source in ((images, "imagesTr/patient_0_0000.nii.gz"), (truth, "labelsTr/patient_0.nii.gz")):
        folder.mkdir()
        shutil.copy(raw / source, folder)
    arguments = ["-i", images, "-o", predicted, "-d", 902, "-c", "3d_fullres", "-f", 0, "-tr", MIXED, "-p", PLANS]
    arguments += ["-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta"]
    unset = {k: v for k, v in os.environ.items() if k != "nnUNet_extTrainer"}
    status, output = nnunet("nnUNetv2_predict", *arguments, environment=unset)
    assert status != 0
    assert "Could not find requested nnunet trainer nnUNetTrainerGuideGen" in output
    status, output = nnunet("nnUNetv2_predict", *arguments)
    assert status == 0, output
    segmentation = nib.load(predicted / "patient_0.nii.gz")
    assert segmentation.shape == (36, 34, 32)
    assert set(np.unique(np.asarray(segmentation.dataobj))) <= {0, 1, 2, 3}
    json_files = ["-djfile", predicted / "dataset.json", "-pfile", predicted / "plans.json", "-np", 1]
    status, output = nnunet("nnUNetv2_evaluate_folder", truth, predicted, *json_files)
    assert status == 0, output
    summary = json.loads((predicted / "summary.json").read_text())
    assert set(summary["mean"]) == {"1", "2", "3"}
    assert len(summary["metric_per_case"]) == 1


def test_without_the_plugin_a_model_loads_after_its_trainer_is_renamed(trained):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    # nnU-Net cannot resolve the trainer's name then; the plugin's README gives this remedy.
    checkpoint = torch.load(trained / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainer"}, trained / "checkpoint_portable.pth")
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(trained.parent), (0,), "checkpoint_portable.pth")
    for name, value in predictor.network.state_dict().items():
        assert torch.equal(value, checkpoint["network_weights"][name])


def test_two_processes_train_together_each_with_its_share_of_the_batch(world, planned, tmp_path):
    # nnU-Net itself starts several processes for GPUs only; these two meet over gloo.
    results = tmp_path / "results"
    changes = {"TEST_EPOCHS": 1, "TEST_GLOO_FILE": tmp_path / "meeting", "nnUNet_results": results}
    processes = [start_training(MIXED, "2d", **changes, TEST_GLOO_RANK=rank) for rank in (0, 1)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    folder = results / "Dataset902_Mix" / f"{MIXED}__{PLANS}__2d" / "fold_0"
    assert "GuideGen: 0.5000 of 12 training patches were synthetic" in log_of(folder)
    checkpoint = torch.load(folder / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["init_args"]["guidegen"]["fraction"] == 0.5
    assert not any(name.startswith("module.") for name in checkpoint["network_weights"])


def test_several_gpus_are_refused_by_nnunet_on_a_cpu(planned):
    status, output = train(MIXED, "2d", "-num_gpus", 2)
    assert status != 0
    assert "only implemented for cuda devices" in output
