"""Training with nnUNetTrainerGuideGen through nnU-Net's own commands, on toy data on the CPU."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunet_support.command import run_command

pytest.importorskip("nnunetv2")
torch = pytest.importorskip("torch")
pytest_plugins = ["nnunet_support.world"]

from guidegen_nnunet.folders import NnUNetError, is_synthetic  # noqa: E402
from guidegen_nnunet.install import trainers_folder  # noqa: E402
from guidegen_nnunet.settings import Settings  # noqa: E402
from guidegen_nnunet.splits import read_folds  # noqa: E402
from guidegen_nnunet.trainer import MixedDataLoader, nnUNetTrainerGuideGen  # noqa: E402

HERE = Path(__file__).parent
PLANS = "nnUNetPlansTiny"


@pytest.fixture(scope="module")
def planned(world, merged):
    """The preprocessed folder of the merged data set, with a tiny network beside the plans of nnU-Net."""
    assert run_command("plan", 902, "--processes", 1) == 0
    folder = world / "preprocessed" / merged.name
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {"patch_size": [24, 24, 24], "batch_size": 4}
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
    }
    (folder / f"{PLANS}.json").write_text(json.dumps(plans | {"plans_name": PLANS}))
    return folder


def with_plugin() -> dict[str, str]:
    return dict(os.environ) | {"nnUNet_extTrainer": str(trainers_folder())}


def train(num_epochs: int, *extra: str) -> subprocess.CompletedProcess:
    script = str(HERE / "nnunet_support" / "short_training.py")
    arguments = [script, str(num_epochs), "902", "3d_fullres", "0", "-p", PLANS, "-tr", "nnUNetTrainerGuideGen"]
    return subprocess.run(
        [sys.executable, *arguments, "-device", "cpu", *extra],
        env=with_plugin(),
        capture_output=True,
        text=True,
    )


def predict(world: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    images = world / "imagesTs"
    if not images.exists():
        images.mkdir()
        case = "patient_0_0000.nii.gz"
        (images / case).write_bytes((world / "raw" / "Dataset901_Toy" / "imagesTr" / case).read_bytes())
    entry = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as p; p()"
    arguments = f"-i {images} -o {world / 'predicted'} -d 902 -c 3d_fullres -f 0 -tr nnUNetTrainerGuideGen -p {PLANS}"
    arguments += " -device cpu -npp 1 -nps 1 --disable_tta"
    return subprocess.run(
        [sys.executable, "-c", entry, *arguments.split()],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(planned, world):
    """Folder of fold 0 after one epoch and a resumed second one."""
    first = train(1)
    assert first.returncode == 0, first.stderr
    second = train(2, "--c")
    assert second.returncode == 0, second.stderr
    return world / "results" / planned.name / f"nnUNetTrainerGuideGen__{PLANS}__3d_fullres" / "fold_0"


# -- settings and loader


@pytest.mark.parametrize("text", ["-0.1", "1.5", "half", "nan", ""])
def test_a_fraction_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("GUIDEGEN_NNUNET_FRACTION", text)
    with pytest.raises(NnUNetError, match="fraction from 0 to 1"):
        Settings.from_environment()


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


def test_fingerprint_and_plans_are_those_of_the_real_cases_alone(planned, monkeypatch):
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    DatasetFingerprintExtractor("Dataset901_Toy", 1).run(overwrite_existing=True)
    ExperimentPlanner("Dataset901_Toy").plan_experiment()
    alone = planned.parent / "Dataset901_Toy"
    fingerprints = [json.loads((f / "dataset_fingerprint.json").read_text()) for f in (alone, planned)]
    assert fingerprints[0] == fingerprints[1]
    plans = [json.loads((f / "nnUNetPlans.json").read_text()) for f in (alone, planned)]
    assert plans[1].pop("guidegen")["num_real_cases"] == 5
    assert plans[0] | {"dataset_name": "Dataset902_Mix"} == plans[1]


def test_the_trainer_is_found_by_name_trains_resumes_and_carries_its_settings(trained):
    checkpoint = torch.load(trained / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainerGuideGen"
    assert checkpoint["current_epoch"] == 2
    settings = {"fraction": 0.5, "num_real": 4, "num_synthetic": 4}
    assert checkpoint["init_args"]["guidegen"] == settings
    logs = [p.read_text() for p in sorted(trained.glob("training_log_*.txt"))]
    assert sum("GuideGen: 0.5000 of 24 training patches were synthetic" in log for log in logs) == 2
    assert sum(f"GuideGen: {settings}" in log for log in logs) == 2
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()


def test_validation_runs_on_the_real_cases_of_the_fold(trained, merged):
    validated = {p.name.removesuffix(".nii.gz") for p in (trained / "validation").glob("*.nii.gz")}
    assert validated == set(read_folds(merged / "splits_final.json")[0]["val"])
    assert not any(map(is_synthetic, validated))


def test_the_trained_model_predicts(world, trained):
    result = predict(world, with_plugin())
    assert result.returncode == 0, result.stderr
    predicted = nib.load(world / "predicted" / "patient_0.nii.gz")
    assert predicted.shape == (36, 34, 32)
    assert set(np.unique(np.asarray(predicted.dataobj))) <= {0, 1, 2, 3}


def test_without_the_plugin_a_model_loads_after_its_trainer_is_renamed(trained):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    # nnU-Net cannot resolve the trainer's name then; the plugin's README gives this remedy.
    checkpoint = torch.load(trained / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainer"}, trained / "checkpoint_portable.pth")
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(trained.parent), (0,), "checkpoint_portable.pth")
    for name, value in predictor.network.state_dict().items():
        assert torch.equal(value, checkpoint["network_weights"][name])


@pytest.fixture
def trainer(planned):
    """Makes nnUNetTrainerGuideGen for a fold in this process."""

    def make(fold: int | str = 0, name: str = PLANS):
        plans = json.loads((planned / f"{name}.json").read_text()) | {"continue_training": False}
        dataset_json = json.loads((planned / "dataset.json").read_text())
        return nnUNetTrainerGuideGen(plans, "3d_fullres", fold, dataset_json, torch.device("cpu"))

    return make


@pytest.fixture
def replace():
    """Replaces the content of JSON files for one test; None removes the file."""
    originals: dict[Path, bytes] = {}

    def do(path: Path, content: object) -> None:
        originals.setdefault(path, path.read_bytes())
        path.unlink() if content is None else path.write_text(json.dumps(content))

    yield do
    for path, content in originals.items():
        path.write_bytes(content)


def test_a_resumed_training_with_another_fraction_is_refused(trainer, trained, monkeypatch):
    monkeypatch.setenv("GUIDEGEN_NNUNET_FRACTION", "0.25")
    resumed = trainer()
    resumed.load_checkpoint(str(trained / "checkpoint_final.pth"))
    with pytest.raises(NnUNetError, match=r"set GUIDEGEN_NNUNET_FRACTION=0\.5"):
        resumed.on_train_start()


def test_fold_all_trains_on_everything_and_validates_on_real_cases(trainer):
    tr_keys, val_keys = trainer("all").do_split()
    assert len(tr_keys) == 9
    assert sorted(val_keys) == [f"patient_{i}" for i in range(5)]


def test_synthetic_validation_is_refused_wherever_it_comes_from(trainer, planned, replace):
    with pytest.raises(NnUNetError, match="validates on"):
        trainer(7).on_train_start()
    splits = planned / "splits_final.json"
    folds = json.loads(splits.read_text())
    swapped = [{"train": f["val"], "val": f["train"]} for f in folds]
    replace(splits, swapped)
    with pytest.raises(NnUNetError, match="validates on 4 synthetic"):
        trainer().on_train_start()
    with pytest.raises(NnUNetError, match="validates on 4 synthetic"):
        run_command("plan", 902)
    replace(splits, None)
    with pytest.raises(NnUNetError, match="there is none"):
        trainer().on_train_start()
    assert not splits.exists()


def test_a_fold_without_synthetic_or_with_unprocessed_cases_is_refused(trainer, planned, replace):
    splits = planned / "splits_final.json"
    replace(splits, [{"train": ["patient_0"], "val": ["patient_1"]}])
    with pytest.raises(NnUNetError, match="got 1 and 0"):
        trainer().on_train_start()
    replace(splits, [{"train": ["patient_0", "guidegen_000000009"], "val": ["patient_1"]}])
    with pytest.raises(NnUNetError, match="not preprocessed"):
        trainer().on_train_start()


def test_plans_and_fingerprints_that_nnunet_made_from_all_cases_are_refused(trainer, planned, replace):
    plans = json.loads((planned / f"{PLANS}.json").read_text())
    replace(planned / f"{PLANS}.json", {k: v for k, v in plans.items() if k != "guidegen"})
    with pytest.raises(NnUNetError, match="were not made from real cases only"):
        trainer().on_train_start()
    replace(planned / f"{PLANS}.json", plans | {"guidegen": plans["guidegen"] | {"num_real_cases": 9}})
    with pytest.raises(NnUNetError, match="made from 9 real cases, but 5"):
        trainer().on_train_start()
    replace(planned / f"{PLANS}.json", plans)
    fingerprint = json.loads((planned / "dataset_fingerprint.json").read_text())
    replace(planned / "dataset_fingerprint.json", fingerprint | {"spacings": fingerprint["spacings"] * 2})
    with pytest.raises(NnUNetError, match="was remade after the plans"):
        trainer().on_train_start()
