"""What ruins a comparison is refused at the start, each with a sentence."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from nnunet_support.command import run_command
from nnunet_support.tiny_plans import NAME as PLANS

pytest.importorskip("nnunetv2")
torch = pytest.importorskip("torch")
pytest_plugins = ["nnunet_support.world"]

from guidegen_nnunet.folders import NnUNetError  # noqa: E402
from guidegen_nnunet.fresh_trainer import nnUNetTrainerGuideGenStream  # noqa: E402
from guidegen_nnunet.trainer import nnUNetTrainerGuideGen  # noqa: E402
from guidegen_nnunet.variants import nnUNetTrainerGuideGenFinetune, nnUNetTrainerGuideGenPretrain  # noqa: E402


@pytest.fixture
def trainer(world, planned):
    """Makes a trainer for a fold in this process."""

    def make(fold: int | str = 0, kind: type = nnUNetTrainerGuideGen, configuration: str = "3d_fullres"):
        plans = json.loads((planned / f"{PLANS}.json").read_text()) | {"continue_training": False}
        dataset_json = json.loads((planned / "dataset.json").read_text())
        return kind(plans, configuration, fold, dataset_json, torch.device("cpu"))

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


def test_fold_all_trains_on_everything_and_validates_on_real_cases(trainer):
    tr_keys, val_keys = trainer("all").do_split()
    assert len(tr_keys) == 9
    assert sorted(val_keys) == [f"patient_{i}" for i in range(5)]


@pytest.mark.parametrize("kind", [nnUNetTrainerGuideGen, nnUNetTrainerGuideGenStream])
def test_synthetic_validation_is_refused_wherever_it_comes_from(trainer, planned, replace, kind):
    splits = planned / "splits_final.json"
    folds = json.loads(splits.read_text())
    swapped = [{"train": f["val"], "val": f["train"]} for f in folds]
    replace(splits, swapped)
    with pytest.raises(NnUNetError, match="validates on 4 synthetic"):
        trainer(0, kind).on_train_start()
    with pytest.raises(NnUNetError, match="validates on 4 synthetic"):
        run_command("plan", 902)
    replace(splits, None)
    with pytest.raises(NnUNetError, match="there is none"):
        trainer(0, kind).on_train_start()
    assert not splits.exists()


@pytest.mark.parametrize("kind", [nnUNetTrainerGuideGen, nnUNetTrainerGuideGenStream])
def test_a_fold_that_the_file_lacks_is_refused_whatever_nnunet_would_draw_for_it(trainer, planned, replace, kind):
    for fold in (5, 7, -1):
        with pytest.raises(NnUNetError, match=rf"expected a fold from 0 to 4 of .*splits_final.json, got {fold}"):
            trainer(fold, kind).do_split()
    folds = json.loads((planned / "splits_final.json").read_text())
    replace(planned / "splits_final.json", folds[:2])
    assert trainer(1, kind).do_split()[1] == folds[1]["val"]
    with pytest.raises(NnUNetError, match="expected a fold from 0 to 1"):
        trainer(2, kind).do_split()


def test_a_fold_beyond_those_that_nnunet_makes_of_real_cases_alone_is_refused(trainer, planned_alone):
    model = trainer(5, nnUNetTrainerGuideGenStream)
    splits = planned_alone / "splits_final.json"
    # As after nnU-Net's own planning: no folds yet.
    splits.unlink(missing_ok=True)
    model.preprocessed_dataset_folder_base = str(planned_alone)
    model.preprocessed_dataset_folder = str(planned_alone / model.configuration_manager.data_identifier)
    with pytest.raises(NnUNetError, match="expected a fold from 0 to 4"):
        model.do_split()
    assert len(json.loads(splits.read_text())) == 5


@pytest.mark.parametrize("kind", [nnUNetTrainerGuideGen, nnUNetTrainerGuideGenStream])
def test_a_cascade_is_refused_with_what_to_train_instead(trainer, planned, replace, kind):
    plans = json.loads((planned / f"{PLANS}.json").read_text())
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "2d"}
    configurations = plans["configurations"] | {"3d_cascade_fullres": cascade}
    replace(planned / f"{PLANS}.json", plans | {"configurations": configurations})
    with pytest.raises(NnUNetError, match=r"got 3d_cascade_fullres: .* train 3d_fullres\.$"):
        trainer(0, kind, "3d_cascade_fullres").on_train_start()


def test_a_fold_without_synthetic_or_with_unprocessed_cases_is_refused(trainer, planned, replace):
    splits = planned / "splits_final.json"
    replace(splits, [{"train": ["patient_0"], "val": ["patient_1"]}])
    with pytest.raises(NnUNetError, match="got 1 and 0"):
        trainer().on_train_start()
    replace(splits, [{"train": ["patient_0", "guidegen_000000009"], "val": ["patient_1"]}])
    with pytest.raises(NnUNetError, match="not preprocessed"):
        trainer().on_train_start()


@pytest.mark.parametrize("kind", [nnUNetTrainerGuideGen, nnUNetTrainerGuideGenStream])
def test_plans_and_fingerprints_that_nnunet_made_from_all_cases_are_refused(trainer, planned, replace, kind):
    plans = json.loads((planned / f"{PLANS}.json").read_text())
    replace(planned / f"{PLANS}.json", {k: v for k, v in plans.items() if k != "guidegen"})
    with pytest.raises(NnUNetError, match="were not made from real cases only"):
        trainer(0, kind).on_train_start()
    replace(planned / f"{PLANS}.json", plans | {"guidegen": plans["guidegen"] | {"num_real_cases": 9}})
    with pytest.raises(NnUNetError, match="made from 9 real cases, but 5"):
        trainer(0, kind).on_train_start()
    replace(planned / f"{PLANS}.json", plans)
    fingerprint = json.loads((planned / "dataset_fingerprint.json").read_text())
    replace(planned / "dataset_fingerprint.json", fingerprint | {"spacings": fingerprint["spacings"] * 2})
    with pytest.raises(NnUNetError, match="was remade after the plans"):
        trainer(0, kind).on_train_start()


@pytest.mark.parametrize("kind", [nnUNetTrainerGuideGen, nnUNetTrainerGuideGenStream])
def test_what_was_preprocessed_from_an_export_before_is_refused(trainer, planned, merged, replace, kind):
    again = "exported again after nnUNetPlans_3d_fullres was preprocessed.* run `guidegen nnunet plan`"
    notes = json.loads((planned / "guidegen_preprocessed.json").read_text())
    assert set(notes) == {"nnUNetPlans_2d", "nnUNetPlans_3d_fullres"}
    # Planned again after that, but another configuration.
    replace(planned / "guidegen_preprocessed.json", notes | {"nnUNetPlans_3d_fullres": "an export before"})
    with pytest.raises(NnUNetError, match=again):
        trainer(0, kind).on_train_start()
    replace(planned / "guidegen_preprocessed.json", notes)
    trainer(0, kind)._check()
    # Not planned again at all, by this version or the one before.
    record = json.loads((merged / "guidegen_synthetic.json").read_text())
    replace(merged / "guidegen_synthetic.json", record | {"label_of_class": {"liver": 1}})
    with pytest.raises(NnUNetError, match=again):
        trainer(0, kind).on_train_start()
    replace(planned / "guidegen_preprocessed.json", None)
    with pytest.raises(NnUNetError, match=again):
        trainer(0, kind).on_train_start()
    # Where the raw data set was left behind, nobody can tell.
    replace(merged / "guidegen_synthetic.json", None)
    model = trainer(0, kind)
    model._check()
    assert "nobody noted which export nnUNetPlans_3d_fullres" in Path(model.log_file).read_text()


def test_a_plan_of_one_configuration_keeps_what_is_noted_of_the_others(planned, replace, monkeypatch):
    exported = sha256((planned / "guidegen_synthetic.json").read_bytes()).hexdigest()
    monkeypatch.setattr("guidegen_nnunet.plan._preprocess", lambda *arguments: None)
    monkeypatch.setattr("guidegen_nnunet.plan._extract_fingerprint", lambda *arguments: None)
    file, whole = (
        planned / "guidegen_preprocessed.json",
        {"nnUNetPlans_2d": exported, "nnUNetPlans_3d_fullres": exported},
    )
    assert json.loads(file.read_text()) == whole
    replace(file, whole | {"nnUNetPlans_2d": "an export before"})
    assert run_command("plan", 902, "--processes", 1) == 0
    assert json.loads(file.read_text()) == whole | {"nnUNetPlans_2d": "an export before"}
    # A version before noted nothing: what it left is of the export that it planned.
    replace(file, None)
    replace(planned / "guidegen_synthetic.json", {"labels": {}})
    assert run_command("plan", 902, "--processes", 1) == 0
    before = sha256(b'{"labels": {}}').hexdigest()
    assert json.loads(file.read_text()) == whole | {"nnUNetPlans_2d": before}


def test_fresh_cases_beside_plans_that_count_lost_synthetic_ones_are_refused(trainer, planned, replace):
    # As if the bookkeeping and the stamp were lost: nine cases were planned, five real ones are there.
    plans = json.loads((planned / f"{PLANS}.json").read_text())
    replace(planned / f"{PLANS}.json", {k: v for k, v in plans.items() if k != "guidegen"})
    replace(planned / "guidegen_synthetic.json", None)
    with pytest.raises(NnUNetError, match="the plans count 9 cases, but 5 real ones"):
        trainer(0, nnUNetTrainerGuideGenStream).on_train_start()


@pytest.mark.parametrize("kind", [nnUNetTrainerGuideGen, nnUNetTrainerGuideGenStream, nnUNetTrainerGuideGenPretrain])
def test_labels_or_channels_that_do_not_match_the_synthetic_cases_are_refused(trainer, planned, replace, kind):
    path = planned / "dataset.json"
    dataset_json = json.loads(path.read_text())
    labels = dataset_json["labels"]
    swapped = labels | {"liver": labels["Spleen"], "Spleen": labels["liver"]}
    replace(path, dataset_json | {"labels": swapped})
    with pytest.raises(NnUNetError, match=r"changed: Spleen, liver\), so one number would mean two things"):
        trainer(0, kind).on_train_start()
    replace(path, dataset_json | {"channel_names": {"0": "T1"}})
    with pytest.raises(NnUNetError, match="one channel 'CT', got \\['T1'\\]"):
        trainer(0, kind).on_train_start()


def test_fresh_cases_drop_what_the_export_or_the_setting_drops(trainer, planned, replace, monkeypatch):
    def labels_of_fresh_cases() -> dict[str, int]:
        return trainer(0, nnUNetTrainerGuideGenStream)._project()

    path = planned / "guidegen_synthetic.json"
    record = json.loads(path.read_text())
    replace(path, record | {"label_of_class": {"liver": 1, "tumour": 0}, "dropped_classes": ["kidney", "tumour"]})
    assert labels_of_fresh_cases() == {"liver": 1, "tumour": 0}
    # As versions before recorded it.
    replace(path, record | {"label_of_class": {"liver": 1}, "dropped_classes": ["kidney", "tumour"]})
    assert labels_of_fresh_cases() == {"liver": 1, "tumour": 0}
    monkeypatch.setenv("GUIDEGEN_NNUNET_LABEL_MAP", "tumour=")
    assert labels_of_fresh_cases() == {"tumour": 0, "liver": 1, "spleen": 2}


def test_a_longer_schedule_than_the_baselines_is_refused(trainer, monkeypatch):
    monkeypatch.setenv("GUIDEGEN_NNUNET_EPOCHS", "2000")
    with pytest.raises(NnUNetError, match="would take 500000 iterations, the baseline takes 250000"):
        trainer().on_train_start()
    with pytest.raises(NnUNetError, match="would take 500000 iterations"):
        trainer(0, nnUNetTrainerGuideGenPretrain).on_train_start()
    monkeypatch.setenv("GUIDEGEN_NNUNET_EPOCHS", "250")
    assert trainer().num_epochs == 250

    class Longer(nnUNetTrainerGuideGen):
        def __init__(self, plans, configuration, fold, dataset_json, device):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_iterations_per_epoch = 1001

    with pytest.raises(NnUNetError, match="Longer would take 250250 iterations"):
        trainer(0, Longer).on_train_start()


def test_pre_training_and_fine_tuning_share_the_baselines_epochs(trainer, monkeypatch):
    for share, expected in ((0.5, (500, 500)), (0.2, (200, 800)), (0.999, (999, 1))):
        monkeypatch.setenv("GUIDEGEN_NNUNET_PRETRAIN_SHARE", str(share))
        kinds = (nnUNetTrainerGuideGenPretrain, nnUNetTrainerGuideGenFinetune)
        assert tuple(trainer(0, kind).num_epochs for kind in kinds) == expected


@pytest.mark.parametrize("kind", [nnUNetTrainerGuideGenPretrain, nnUNetTrainerGuideGenFinetune])
@pytest.mark.parametrize(
    ("share", "epochs", "halves"),
    [("0", "0", (0, 1000)), ("1", "0", (1000, 0)), ("0.5", "1", (0, 1)), ("0.1", "4", (0, 4)), ("0.95", "8", (8, 0))],
)
def test_a_half_without_an_epoch_is_refused_by_both(trainer, monkeypatch, kind, share, epochs, halves):
    monkeypatch.setenv("GUIDEGEN_NNUNET_PRETRAIN_SHARE", share)
    monkeypatch.setenv("GUIDEGEN_NNUNET_EPOCHS", epochs)
    told = (
        f"GUIDEGEN_NNUNET_PRETRAIN_SHARE of {sum(halves)} epochs leaves {halves[0]} for the pre-training and "
        f"{halves[1]} for the fine-tuning; change it or GUIDEGEN_NNUNET_EPOCHS"
    )
    with pytest.raises(NnUNetError, match=told):
        trainer(0, kind)


def test_fine_tuning_that_does_not_start_from_its_pre_training_is_refused(trainer, world, monkeypatch):
    # Fold 1, so that no training of another test is met.
    def finetune(weights: dict | None = None):
        model = trainer(1, nnUNetTrainerGuideGenFinetune)
        model.initialize()
        if weights is not None:
            model.network.load_state_dict(weights, strict=False)
        return model

    with pytest.raises(NnUNetError, match="expected a finished pre-training"):
        finetune().on_train_start()
    pretraining = trainer(1, nnUNetTrainerGuideGenPretrain)
    pretraining.initialize()
    weights = pretraining.network.state_dict()
    record = {"num_epochs": 500, "num_iterations_per_epoch": 250}
    path = Path(pretraining.output_folder) / "checkpoint_final.pth"
    torch.save({"network_weights": weights, "init_args": {"guidegen": record}}, path)
    with pytest.raises(NnUNetError, match=r"add -pretrained_weights .*checkpoint_final"):
        finetune().on_train_start()
    transferred = {name: value for name, value in weights.items() if ".seg_layers." not in name}
    monkeypatch.setenv("GUIDEGEN_NNUNET_PRETRAIN_SHARE", "0.25")
    with pytest.raises(NnUNetError, match="together would take 312500 iterations, the baseline takes 250000"):
        finetune(transferred).on_train_start()
    monkeypatch.setenv("GUIDEGEN_NNUNET_PRETRAIN_SHARE", "0.5")
    assert finetune(transferred)._check()["pretrained"] == record
