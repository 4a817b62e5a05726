"""A development run of the whole nnU-Net route on real CT: python -m benchmarks.nnunet_openkbp OPENKBP --work DIR.

OPENKBP is a folder of pt_N_ct.nii.gz and pt_N_label.nii.gz. A few patients become the real data set and the ones after
them stand in for synthetic cases: they are written as shards first, so that export, plans, folds, trainers, prediction
and evaluation do with real CT what they will do with generated CT. It shows that the route works; two short epochs are
no training, and the Dice it ends with says nothing of synthetic data.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.nnunet_route import Route, write_cases, write_real
from benchmarks.record import save
from guidegen_data import HEAD_NECK, Case, Findings

PLANS = "nnUNetPlansSmall"
_SHORT = """
import sys
from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
initialise = nnUNetTrainer.__init__
def shortened(self, plans, configuration, fold, dataset_json, device):
    initialise(self, plans, configuration, fold, dataset_json, device)
    self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, {iterations}, 1
validate = nnUNetTrainer.perform_actual_validation
def validate_once(self, save_probabilities=False):
    self.inference_allowed_mirroring_axes = None
    validate(self, save_probabilities)
nnUNetTrainer.__init__, nnUNetTrainer.perform_actual_validation = shortened, validate_once
if __name__ == "__main__":
    run_training_entry()
"""


def stand_in(ct: Path) -> Case:
    """A patient as a case of guidegen-shard."""
    # Typed: nibabel's load() promises less than it gives.
    image, label = (nib.Nifti1Image.from_filename(p) for p in (ct, ct.with_name(ct.name.replace("_ct", "_label"))))
    findings = Findings(region="head and neck", anatomy_name=HEAD_NECK.name)
    arrays = np.asarray(image.dataobj, np.int16), np.asarray(label.dataobj, np.uint8)
    return Case("stand-in", *arrays, image.affine, "CT head and neck.", findings, {})


def write_small_plans(preprocessed: Path) -> None:
    """A copy of the plans for two cores: nnU-Net's own network and preprocessing, smaller patches and batches."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text()) | {"plans_name": PLANS}
    for configuration, size, batch_size in (("2d", [128, 128], 8), ("3d_fullres", [64, 64, 64], 2)):
        plans["configurations"][configuration] |= {"patch_size": size, "batch_size": batch_size}
    (preprocessed / f"{PLANS}.json").write_text(json.dumps(plans))


def prepare(route: Route, real: list[Path], stand_ins: list[Path]) -> None:
    """Export, plans from the real patients, and the setting by which nnU-Net finds our trainers."""
    if not (route.work / "shards").is_dir():
        write_real(real, route.work / "raw" / "Dataset919_OpenKbp")
        write_cases(lambda i: stand_in(stand_ins[i]), len(stand_ins), route.work / "shards")
    words = [route.work / "shards", "--real", 919, "--id", 920, "--name", "OpenKbpMixed"]
    route.guidegen("export", "nnunet", "export", *words)
    route.guidegen("plan and preprocess", "nnunet", "plan", 920, "-c", "2d", "3d_fullres", "--processes", 1)
    write_small_plans(route.work / "preprocessed" / "Dataset920_OpenKbpMixed")
    setting = next(s for s in route.guidegen("install", "nnunet", "install").splitlines() if s.startswith("export"))
    route.environment["nnUNet_extTrainer"] = setting.split('"')[1].split("$")[0]


def one_configuration(route: Route, script: Path, configuration: str, patients: list[Path]) -> dict[str, Any]:
    """Train two short epochs, predict patients that no training saw, evaluate."""
    trainer = "nnUNetTrainerGuideGen"
    words = [920, configuration, 0, "-tr", trainer, "-p", PLANS, "-device", "cpu"]
    route(f"train {configuration}", sys.executable, script, *words)
    fold = route.work / "results" / "Dataset920_OpenKbpMixed" / f"{trainer}__{PLANS}__{configuration}" / "fold_0"
    log = "".join(p.read_text() for p in fold.glob("training_log_*.txt"))
    images, truth, out = (route.work / n for n in ("imagesTs", "labelsTs", f"predicted_{configuration}"))
    for folder in (images, truth):
        folder.mkdir(exist_ok=True)
    for ct in patients:
        name = ct.name.removesuffix("_ct.nii.gz")
        (images / f"{name}_0000.nii.gz").write_bytes(ct.read_bytes())
        (truth / f"{name}.nii.gz").write_bytes(ct.with_name(f"{name}_label.nii.gz").read_bytes())
    words = ["-i", images, "-o", out, "-d", 920, "-c", configuration, "-f", 0, "-tr", trainer, "-device", "cpu"]
    words += ["-p", PLANS, "-npp", 1, "-nps", 1, "--disable_tta"]
    route.nnunet(f"predict {configuration}", "nnunetv2.inference.predict_from_raw_data", "predict_entry_point", *words)
    words = [truth, out, "-djfile", out / "dataset.json", "-pfile", out / "plans.json", "-np", 1]
    module = "nnunetv2.evaluation.evaluate_predictions"
    route.nnunet(f"evaluate {configuration}", module, "evaluate_folder_entry_point", *words)
    summary = json.loads((out / "summary.json").read_text())
    return {
        "patches_synthetic": [float(s) for s in re.findall(r"GuideGen: ([\d.]+) of \d+ training patches", log)],
        "train_loss": [float(s) for s in re.findall(r"train_loss (-?[\d.]+)", log)],
        "validated_on": sorted(p.name.removesuffix(".nii.gz") for p in (fold / "validation").glob("*.nii.gz")),
        "mean_dice_of_unseen_patients": round(summary["foreground_mean"]["Dice"], 4),
    }


def main() -> None:
    """Runs the route and writes results/nnunet_openkbp.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openkbp", type=Path, help="folder with pt_N_ct.nii.gz and pt_N_label.nii.gz")
    parser.add_argument("--work", type=Path, required=True, help="new folder to work in")
    parser.add_argument("--real", type=int, default=5)
    parser.add_argument("--stand-ins", type=int, default=3)
    parser.add_argument("--unseen", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=2, help="of each of the two epochs")
    args = parser.parse_args()
    patients = sorted(args.openkbp.glob("*_ct.nii.gz"))[: args.real + args.stand_ins + args.unseen]
    real, stand_ins = patients[: args.real], patients[args.real : args.real + args.stand_ins]
    route = Route(args.work)
    script = args.work / "short_training.py"
    script.write_text(_SHORT.format(iterations=args.iterations))
    prepare(route, real, stand_ins)
    figures = {c: one_configuration(route, script, c, patients[-args.unseen :]) for c in ("2d", "3d_fullres")}
    plans = json.loads((args.work / "preprocessed" / "Dataset920_OpenKbpMixed" / f"{PLANS}.json").read_text())
    save(
        "nnunet_openkbp",
        {
            "num_real": len(real),
            "num_stand_ins": len(stand_ins),
            "iterations_an_epoch": args.iterations,
            "patch_size": {c: plans["configurations"][c]["patch_size"] for c in figures},
            "batch_size": {c: plans["configurations"][c]["batch_size"] for c in figures},
            "num_cases_planned_from": plans["guidegen"]["num_real_cases"],
            **figures,
            "seconds": route.seconds,
        },
    )


if __name__ == "__main__":
    main()
