"""Where do generated label maps fall short? python -m benchmarks.downstream_found WORK --model MODEL --prepared DONORS

A segmenter of `benchmarks.downstream` that learned from k real patients alone (left in WORK) looks at the generated
cases of that benchmark, and at the patients that their generator learned from. What it finds is held against the label
map of each, organ by organ: on real patients that is how well it segments. Where it is worse on generated ones, either
the CT does not show what the label map says, or the label map says what no patient has. The last rows part the two:
CTs drawn for label maps of some of the same patients, which DONORS (`guidegen prepare`) holds. Writes
results/downstream_found.json and a sheet.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
from tqdm import tqdm

from benchmarks.downstream import Training
from benchmarks.downstream_arms import as_it_is, from_mask
from benchmarks.downstream_scores import ORGANS, score_case
from benchmarks.downstream_segmenter import Schedule
from benchmarks.record import RESULTS, save
from guidegen_data import HEAD_NECK, Case, GuideGenPipeline, ShardReader
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.models.folder import fingerprint_of, model_folder
from guidegen_data.scanned import body_slices
from guidegen_data.sources.prepared import case_paths, load_case

#: Of the slices of the field so many must show a body for a scan to count as whole: 20 cm.
_WHOLE_MM = 200.0
_SHOWN = 5
Found = dict[str, Any]


def segmenter(folder: Path) -> Callable[[Case], np.ndarray]:
    """What finds the label map (X, Y, Z) of ORGANS in a case's CT; SystemExit where the folder holds no training."""
    trained = sorted(folder.glob("Dataset*/nnUNetTrainer__*"))
    if not trained:
        sys.exit(f"{folder} holds no training; give a WORK of benchmarks.downstream that did this one.")
    for name in ("raw", "preprocessed", "results"):
        os.environ.setdefault(f"nnUNet_{name}", str(folder))  # nnU-Net asks for them where it needs none
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step_size = Schedule().step_size
    predictor = nnUNetPredictor(tile_step_size=step_size, use_mirroring=False, device=device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained[0]), ("all",), "checkpoint_final.pth")
    reader = predictor.plans_manager.image_reader_writer_class()

    def find(case: Case) -> np.ndarray:
        with tempfile.TemporaryDirectory() as made:
            path = Path(made) / "ct.nii.gz"
            nib.save(nib.Nifti1Image(case.ct_hu, case.affine), path)
            image, properties = reader.read_images([str(path)])
        return np.asarray(predictor.predict_single_npy_array(image, properties)).transpose(2, 1, 0).astype(np.uint8)

    return find


def look(case: Case, find: Callable[[Case], np.ndarray]) -> Found:
    """Dice of every organ that a case's label map shows, and whether its scan is whole."""
    truth, found = np.zeros_like(case.label_map), find(case)
    for name, number in ORGANS.items():
        truth[case.label_map == HEAD_NECK.id_of(name)] = number
    shown = body_slices(case.label_map > 0, case.spacing_mm)
    scores = score_case(truth, found, case.spacing_mm)
    return {
        "whole": (shown.stop - shown.start) * case.spacing_mm[2] >= _WHOLE_MM,
        "dice": {name: score["dice"] for name, score in scores.items()},
        "case": case,
        "truth": truth,
        "found": found,
    }


def means(looked: Iterable[Found]) -> dict[str, Any]:
    """Organ -> mean Dice, in how many cases it shows, and in how many it is hardly found (below 0.2)."""
    held = [of["dice"] for of in looked]
    table: dict[str, Any] = {"num_cases": len(held), "organs": {}}
    for name in ORGANS:
        if dice := [of[name] for of in held if name in of]:
            hardly = sum(d < 0.2 for d in dice)
            table["organs"][name] = {"dice": round(float(np.mean(dice)), 3), "n": len(dice), "hardly_found": hardly}
    table["mean"] = round(float(np.mean([of["dice"] for of in table["organs"].values()])), 3)
    return table


def draw(rows: dict[str, list[Found]], path: Path) -> None:
    """Sagittal slices through the larynx: the label map's organs as lines, what was found dashed; worst to best."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), _SHOWN, figsize=(3 * _SHOWN, 3.3 * len(rows)), squeeze=False)
    for line, (title, looked) in zip(axes, rows.items(), strict=True):
        ranked = sorted((of for of in looked if "larynx" in of["dice"]), key=lambda of: of["dice"]["larynx"])
        chosen = [ranked[round(i)] for i in np.linspace(0, len(ranked) - 1, _SHOWN)] if ranked else []
        for axis in line:
            axis.axis("off")
        for axis, of in zip(line, chosen, strict=False):
            x = int(np.nonzero(of["truth"] == ORGANS["larynx"])[0].mean())
            axis.imshow(of["case"].ct_hu[x].T, cmap="gray", vmin=-200, vmax=300, origin="lower")
            for number in ORGANS.values():
                colour = plt.get_cmap("tab10")(number)
                for label_map, style in ((of["truth"], "solid"), (of["found"], "dashed")):
                    if (mask := label_map[x] == number).any():
                        axis.contour(mask.T, [0.5], colors=[colour], linewidths=1, linestyles=style)
            axis.set_title(f"{title}: larynx {of['dice']['larynx']:.2f}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)


def main() -> None:
    """Looks at generated cases, at real ones, and at CTs drawn for label maps of real ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of benchmarks.downstream, of the donor setting")
    parser.add_argument("--model", required=True, help="folder of the generator")
    parser.add_argument("--prepared", type=Path, required=True, help="the donors, prepared")
    parser.add_argument("--k", type=int, default=10, help="real patients that the segmenter learned from (default 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num", type=int, help="cases of each kind (default all)")
    parser.add_argument("--num-drawn", type=int, default=12, help="label maps that get a CT (default 12)")
    args = parser.parse_args()
    keep_freed_memory()
    name = Training("real", args.k, args.seed).name
    find = segmenter(args.work / "predictions" / name)
    reader = ShardReader(args.work / "shards" / "guidegen")
    generated = [look(reader[n], find) for n in tqdm(range(len(reader))[: args.num], desc="generated", disable=None)]
    donors: list[Found] = []
    drawn: list[Found] = []
    whole: list[Found] = []
    pipe = GuideGenPipeline.from_pretrained(args.model)
    for number, path in enumerate(tqdm(case_paths(args.prepared / "train")[: args.num], desc="real", disable=None)):
        prepared = load_case(path)
        donors.append(look(as_it_is(prepared, number), find))
        if donors[-1]["whole"] and len(drawn) < args.num_drawn:
            drawn.append(look(from_mask(pipe, prepared, number), find))
            whole.append(donors[-1])
    kinds = {
        "generated": generated,
        "generated, whole scans": [of for of in generated if of["whole"]],
        "patients of the generator": donors,
        "patients of the generator, whole scans": [of for of in donors if of["whole"]],
        "CTs drawn for label maps of some of these": drawn,
        "the real CTs of the same": whole,
    }
    figures: dict[str, Any] = {"segmenter": name, "generator_sha256": fingerprint_of(model_folder(args.model))}
    figures["found"] = {kind: means(looked) for kind, looked in kinds.items() if looked}
    save("downstream_found", figures, seed=args.seed)
    sheet = {"generated": kinds["generated, whole scans"], "real": kinds["patients of the generator, whole scans"]}
    draw(sheet, RESULTS / "downstream_found.png")


if __name__ == "__main__":
    main()
