"""The trainers in other orders and with fresh cases: what each draws, what each keeps, how long each lasts."""

import json
import re

import numpy as np
import pytest
from monai.data import MetaTensor
from nnunet_support.commands import fold_folder, log_of, train
from nnunet_support.tiny_plans import NAME as PLANS

pytest.importorskip("nnunetv2")
torch = pytest.importorskip("torch")
pytest_plugins = ["nnunet_support.world"]

from guidegen_nnunet.fresh import commonest_codes, preprocess  # noqa: E402

from guidegen_data import ShardReader  # noqa: E402
from guidegen_data.label_maps import Projection  # noqa: E402


def shares(folder) -> list[float]:
    return [float(s) for s in re.findall(r"GuideGen: ([\d.]+) of \d+ training patches", log_of(folder))]


def checkpoint_of(folder) -> dict:
    return torch.load(folder / "checkpoint_final.pth", map_location="cpu", weights_only=False)


def test_a_schedule_goes_from_synthetic_to_real_in_the_baselines_number_of_epochs(world, planned):
    status, output = train("nnUNetTrainerGuideGenSchedule", "2d", TEST_EPOCHS=3)
    assert status == 0, output
    folder = fold_folder(world, "nnUNetTrainerGuideGenSchedule", "2d")
    # nnU-Net draws one batch ahead, before the first epoch begins.
    assert shares(folder) == [1.0, 0.5, 0.0]
    kept = checkpoint_of(folder)["init_args"]["guidegen"]
    assert (kept["fraction_start"], kept["fraction_end"], kept["num_epochs"]) == (1.0, 0.0, 3)


def test_fine_tuning_starts_from_the_pre_training_and_both_take_the_baselines_iterations(world, planned):
    changes = {"TEST_EPOCHS": 3, "GUIDEGEN_NNUNET_PRETRAIN_SHARE": 0.34}
    status, output = train("nnUNetTrainerGuideGenPretrain", "3d_fullres", **changes)
    assert status == 0, output
    before = fold_folder(world, "nnUNetTrainerGuideGenPretrain", "3d_fullres")
    assert shares(before) == [1.0]
    weights = before / "checkpoint_final.pth"
    status, output = train("nnUNetTrainerGuideGenFinetune", "3d_fullres", "-pretrained_weights", weights, **changes)
    assert status == 0, output
    after = fold_folder(world, "nnUNetTrainerGuideGenFinetune", "3d_fullres")
    assert shares(after) == [0.0, 0.0]
    assert checkpoint_of(after)["init_args"]["guidegen"]["pretrained"]["num_epochs"] == 1


def test_fresh_cases_are_generated_while_a_model_trains_on_a_real_data_set(world, planned_alone):
    changes = {"GUIDEGEN_NNUNET_NUM_KEPT": 3, "GUIDEGEN_NNUNET_SEED": 5, "GUIDEGEN_NNUNET_FRACTION": 0.75}
    status, output = train("nnUNetTrainerGuideGenStream", "3d_fullres", dataset=901, **changes)
    assert status == 0, output
    folder = fold_folder(world, "nnUNetTrainerGuideGenStream", "3d_fullres", "Dataset901_Toy")
    assert shares(folder) == [0.75, 0.75]
    made = [int(n) for n in re.findall(r"GuideGen: (\d+) fresh cases made", log_of(folder))]
    assert len(made) == 2
    assert 1 <= made[0] <= made[1]
    assert "labels that no synthetic case has in full: prostate" in log_of(folder)
    kept = checkpoint_of(folder)["init_args"]["guidegen"]
    assert (kept["seed"], kept["model"], kept["num_synthetic"]) == (5, "torso", 0)
    assert kept["label_of_class"] == {"liver": 1, "spleen": 2}


def test_a_generation_that_fails_ends_the_training_with_its_reason(world, planned_alone):
    changes = {"GUIDEGEN_NNUNET_SEED": 13}  # the support script's generator refuses this one
    status, output = train("nnUNetTrainerGuideGenStream", "2d", dataset=901, TEST_FAILING_SEED=13, **changes)
    assert status != 0
    assert "the generation of fresh cases ended: ModelError: as asked" in output


def test_a_fresh_case_is_preprocessed_as_nnunet_does_it_with_the_same_case_in_a_file(world, planned):
    from batchgenerators.utilities.file_and_folder_operations import load_pickle
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(planned / f"{PLANS}.json"))
    dataset_json = json.loads((planned / "dataset.json").read_text())
    case = ShardReader(world / "shards")[2]
    labels = Projection.from_map(case.anatomy, {"liver": 1, "spleen": 2})(case.label_map, case.spacing_mm)
    item = {
        key: MetaTensor(torch.from_numpy(array[None].copy()), affine=torch.from_numpy(case.affine))
        for key, array in (("image", case.ct_hu), ("label", labels))
    }
    for configuration in ("2d", "3d_fullres"):
        stored = planned / plans.get_configuration(configuration).data_identifier
        codes = commonest_codes([load_pickle(str(stored / f"patient_{i}.pkl")) for i in range(5)])
        assert codes == ("L", "A", "S")
        data, seg, properties = preprocess(item, codes, plans, configuration, dataset_json)
        theirs = nnUNetDatasetBlosc2(str(stored), ["guidegen_000000002"]).load_case("guidegen_000000002")
        np.testing.assert_array_equal(data, theirs[0][:])
        np.testing.assert_array_equal(seg, theirs[1][:])
        assert properties["spacing"] == pytest.approx(theirs[3]["spacing"])
        for label, places in theirs[3]["class_locations"].items():
            np.testing.assert_array_equal(properties["class_locations"][label], places)
