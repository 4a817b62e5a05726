"""A development run of the whole nnU-Net route on real CT: python -m benchmarks.nnunet_openkbp OPENKBP --work DIR.

OPENKBP is a folder of pt_N_ct.nii.gz and pt_N_label.nii.gz. A few patients become the real data set and the ones after
them stand in for synthetic cases: they are written as shards first, so that export, plans, folds, trainers, prediction
and evaluation do with real CT what they will do with generated CT. It shows that the route works; two short epochs are
no training, and the Dice it ends with says nothing of synthetic data.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.record import save
from guidegen_data import HEAD_NECK, Case, Findings
from guidegen_data.shards.manifest import ShardEntry
from guidegen_data.shards.writer import encode_case, write_tar

LABELS = {c.name: c.id for c in HEAD_NECK.classes if c.id < 8}
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


def write_real(pairs: list[Path], folder: Path) -> None:
    """A raw nnU-Net data set; organs that the contours of a patient lack stay background."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for ct in pairs:
        name = ct.name.removesuffix("_ct.nii.gz")
        (folder / "imagesTr" / f"{name}_0000.nii.gz").write_bytes(ct.read_bytes())
        label = ct.with_name(f"{name}_label.nii.gz")
        (folder / "labelsTr" / f"{name}.nii.gz").write_bytes(label.read_bytes())
    content = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": len(pairs), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def write_stand_ins(pairs: list[Path], folder: Path) -> None:
    """Patients as a shard folder, as guidegen-shard writes cases."""
    folder.mkdir(parents=True)
    path, parts, keys = folder / "shard-000000.tar", [], []
    for index, ct in enumerate(pairs):
        # Typed: nibabel's load() promises less than it gives.
        image, label = (nib.Nifti1Image.from_filename(p) for p in (ct, ct.with_name(ct.name.replace("_ct", "_label"))))
        keys.append(f"s{index:09d}")
        findings = Findings(region="head and neck", anatomy_name=HEAD_NECK.name)
        arrays = np.asarray(image.dataobj, np.int16), np.asarray(label.dataobj, np.uint8)
        case = Case(keys[-1], *arrays, image.affine, "CT head and neck.", findings, {})
        meta = {"key": keys[-1], "findings": findings.to_dict()}
        parts.append(encode_case(Case(**{**_fields(case), "provenance": meta})).tar())
    sha256, size = write_tar(path, parts)
    entry = ShardEntry(path.name, sha256, size, len(keys), keys[0], keys[-1], 0)
    (folder / "index.json").write_text(json.dumps({"shards": [asdict(entry)]}))


def _fields(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in case.__dataclass_fields__}


class Route:
    """Runs commands in nnU-Net's folders under `work` and keeps how long each took."""

    def __init__(self, work: Path, iterations: int) -> None:
        self.work, self.seconds = work, {}  # type: Path, dict[str, float]
        for name in ("raw", "preprocessed", "results"):
            (work / name).mkdir(parents=True, exist_ok=True)
        self.environment = os.environ | {f"nnUNet_{n}": str(work / n) for n in ("raw", "preprocessed", "results")}
        self.environment |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}
        self.script = work / "short_training.py"
        self.script.write_text(_SHORT.format(iterations=iterations))

    def __call__(self, name: str, *command: object) -> str:
        """Output of a command; SystemExit with it when the command fails."""
        began = time.perf_counter()
        done = subprocess.run(
            [str(c) for c in command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.seconds[name] = round(time.perf_counter() - began, 1)
        print(f"{name}: {self.seconds[name]} s", flush=True)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout}")
        return done.stdout

    def guidegen(self, name: str, *arguments: object) -> str:
        """`guidegen nnunet`."""
        return self(name, sys.executable, "-m", "guidegen_data.cli.main", "nnunet", *arguments)

    def nnunet(self, name: str, module: str, function: str, *arguments: object) -> str:
        """One of nnU-Net's commands by its entry point."""
        return self(name, sys.executable, "-c", f"from {module} import {function}; {function}()", *arguments)


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
        write_stand_ins(stand_ins, route.work / "shards")
    words = [route.work / "shards", "--real", 919, "--id", 920, "--name", "OpenKbpMixed"]
    route.guidegen("export", "export", *words)
    route.guidegen("plan and preprocess", "plan", 920, "-c", "2d", "3d_fullres", "--processes", 1)
    write_small_plans(route.work / "preprocessed" / "Dataset920_OpenKbpMixed")
    setting = next(s for s in route.guidegen("install", "install").splitlines() if s.startswith("export"))
    route.environment["nnUNet_extTrainer"] = setting.split('"')[1].split("$")[0]


def one_configuration(route: Route, configuration: str, patients: list[Path]) -> dict[str, Any]:
    """Train two short epochs, predict patients that no training saw, evaluate."""
    trainer = "nnUNetTrainerGuideGen"
    words = [920, configuration, 0, "-tr", trainer, "-p", PLANS, "-device", "cpu"]
    route(f"train {configuration}", sys.executable, route.script, *words)
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
    route = Route(args.work, args.iterations)
    prepare(route, real, stand_ins)
    figures = {c: one_configuration(route, c, patients[-args.unseen :]) for c in ("2d", "3d_fullres")}
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
