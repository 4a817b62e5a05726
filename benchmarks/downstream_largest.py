"""A downstream result with one piece of each organ kept: python -m benchmarks.downstream_largest RESULT --work WORK

Every organ of this test is one piece, and nnU-Net's own last step (`nnUNetv2_determine_postprocessing`) would keep a
class's largest component where cross-validation says so. Here it is kept of every organ in every arm, and the
predictions that `benchmarks.downstream` left in WORK are scored again: no training is done. RESULT is that result's
name, as downstream_donor_2400_imaged_float32; writes results/RESULT_largest.json, which has its form. What that holds
of the same predictions already is not scored again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from benchmarks.downstream import Training
from benchmarks.downstream_arms import ARMS
from benchmarks.downstream_curve import draw
from benchmarks.downstream_scores import ORGANS, packed, score_folder, unpacked
from benchmarks.downstream_statistics import summary
from benchmarks.record import RESULTS, save

_ANY_NEIGHBOUR = np.ones((3, 3, 3), int)


def largest_pieces(label_map: np.ndarray) -> np.ndarray:
    """A label map (X, Y, Z) of LABELS with the largest piece of each organ, voxels that share a corner being one."""
    kept = np.zeros_like(label_map)
    for number in ORGANS.values():
        pieces, count = ndimage.label(label_map == number, _ANY_NEIGHBOUR)
        if count:
            kept[pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())] = number
    return kept


def rescored(figures: dict[str, Any], work: Path, test: Path, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """The figures of a result with the scores of largest pieces; SystemExit where WORK lacks what it was made of.

    `known` are such figures of before: where a training's scores as predicted are still the same, its are taken.
    """
    patients = {ct.name.removesuffix("_ct.nii.gz"): ct for ct in sorted(test.glob("*_ct.nii.gz"))}
    if sorted(patients) != sorted(figures["test_patients"]):
        sys.exit(f"{test} holds other test patients than the result's {len(figures['test_patients'])}.")
    runs, scores, of = [], {}, {}
    for run in tqdm(figures["trainings"], desc="trainings", disable=None):
        name = Training(run["arm"], run["k"], run["seed"]).name
        of[name] = _digest(figures["scores"][name])
        if known and known.get("of_scores", {}).get(name) == of[name]:
            scores[name] = known["scores"][name]
            runs.append({**run, "cases": unpacked(scores[name])})
            continue
        predictions = work / "predictions" / name
        missing = [c for c in patients if not (predictions / f"{c}.nii.gz").exists()]
        if missing:
            sys.exit(f"{predictions} has no prediction for {missing[:3]}; it must be the folder that made the result.")
        cases = score_folder(predictions, patients, largest_pieces)
        runs.append({**run, "cases": cases})
        scores[name] = packed(cases)
    pieces = {"pieces": "the largest of each organ", "of_scores": of}
    return {**figures, "summary": summary(runs, list(ARMS)), "scores": scores, **pieces}


def _digest(scores: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(scores, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    """Scores the predictions of a result again and writes them beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", help="name of a result of benchmarks.downstream in results/, without .json")
    parser.add_argument("--work", type=Path, required=True, help="the folder that it was made in")
    parser.add_argument("--test", type=Path, help="folder of the test patients (default WORK/imaged/validation)")
    args = parser.parse_args()
    path = RESULTS / f"{args.result}.json"
    if not path.exists():
        sys.exit(f"no result {path}; give the name of one, without .json.")
    held, out = json.loads(path.read_text())["figures"], RESULTS / f"{args.result}_largest.json"
    known = json.loads(out.read_text())["figures"] if out.exists() else None
    figures = rescored(held, args.work, args.test or args.work / "imaged/validation", known)
    save(f"{args.result}_largest", figures)
    draw(figures, RESULTS / f"{args.result}_largest.png")


if __name__ == "__main__":
    main()
