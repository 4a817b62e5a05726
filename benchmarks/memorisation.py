"""Are generated cases copies of training cases? python -m benchmarks.memorisation PREPARED --model torso --num 33

One case is generated for the findings of as many training cases of PREPARED, one a patient first: copying is most
likely where the request is one that was trained on. Each is compared with every training case, warped copies included:
label maps by mean Dice, CTs by the correlation of their soft tissue and by the distance of their features, all after
the centres of what is labelled are laid upon each other.

How near two people come is measured in the same way: every training case with its nearest case of ANOTHER patient. A
generated case counts as a copy when it is nearer to a training case than 99 % of training cases are to their nearest
other patient, so 1 % is what new people would reach. Two controls are asked the same: real patients that were kept
apart, who are new people, and warped copies of training patients, whose share says how well a copy would be found.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from benchmarks.features import FeatureNetwork, network, slice_maps, vectors
from benchmarks.fidelity_cases import generated, one_a_patient_first
from benchmarks.fidelity_ruler import Store
from benchmarks.memorisation_sheet import closest_pairs_sheet
from benchmarks.record import RESULTS, save
from guidegen_data.anatomy import Anatomy
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.errors import SourceError
from guidegen_data.metrics.evaluation import check_vocabulary
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import case_paths, load_case, training_folder, validation_folder

_PERCENTILE = 1.0
_GRID_MM = 6.0
_SOFT_HU = (-160.0, 240.0)
_BANDS = 8  # parts along the body whose slices' features are averaged
MEASURES = {
    "mask_dice": "mean Dice over the classes that either label map holds",
    "image_correlation": "Pearson correlation of HU clipped to [-160, 240]",
    "image_features": "minus the Euclidean distance of features, axial slices averaged in eight parts along the body",
}


@dataclass(frozen=True)
class Footprint:
    """What a case is compared by: coarse label map (n,) uint8, coarse CT (n,) of mean 0 and length 1, features (D,);
    and whose it is."""

    patient: str
    label_map: np.ndarray
    ct: np.ndarray | None
    features: np.ndarray | None


def centred(array: np.ndarray, label_map: np.ndarray, fill: float) -> np.ndarray:
    """The array (X, Y, Z) moved by whole voxels so that the centre of what is labelled is the centre of the grid."""
    labelled = np.argwhere(label_map)
    if not len(labelled):
        return array
    moved = np.full_like(array, fill)
    shift = [round(n / 2 - float(c)) for n, c in zip(array.shape, labelled.mean(axis=0), strict=True)]
    target = tuple(slice(max(s, 0), n + min(s, 0)) for s, n in zip(shift, array.shape, strict=True))
    source = tuple(slice(max(-s, 0), n + min(-s, 0)) for s, n in zip(shift, array.shape, strict=True))
    moved[target] = array[source]
    return moved


def footprint(case: TrainingCase, anatomy: Anatomy, net: FeatureNetwork, store: Store) -> Footprint:
    """What a case is compared by, from the store where it was measured before."""
    step = [max(1, round(_GRID_MM / mm)) for mm in anatomy.spacing_mm]
    labels = centred(case.label_map, case.label_map, 0)[tuple(slice(None, None, k) for k in step)].ravel()
    if case.ct_hu is None:
        return Footprint(case.base, labels, None, None)
    ct = np.asarray(case.ct_hu, np.float32)

    def make() -> dict[str, np.ndarray]:
        aligned = centred(ct, case.label_map, -1024.0)
        soft = torch.from_numpy(np.clip(aligned, *_SOFT_HU))
        coarse = F.avg_pool3d(soft[None], step).numpy().ravel()
        coarse = coarse - coarse.mean()
        maps = slice_maps(net, aligned, "axial", max(1, aligned.shape[2] // (4 * _BANDS)))[-1]
        features = np.stack([part.mean(axis=0) for part in np.array_split(vectors(net, maps), _BANDS)])
        return {"ct": coarse / max(float(np.linalg.norm(coarse)), 1e-9), "features": features.ravel()}

    held = store.get(["footprint", net.name, repr(net.about), _GRID_MM, ct, case.label_map], make)
    return Footprint(case.base, labels, held["ct"], held["features"])


def nearness(a: Sequence[Footprint], b: Sequence[Footprint], num_classes: int) -> dict[str, np.ndarray]:
    """For each measure the nearness (len(a), len(b)) of any two cases, larger is nearer; NaN without a CT."""
    return {
        "mask_dice": _dice([f.label_map for f in a], [f.label_map for f in b], num_classes),
        "image_correlation": _between(a, b, "ct", lambda x, y: x @ y.T),
        "image_features": _between(a, b, "features", _minus_distance),
    }


def _dice(a: list[np.ndarray], b: list[np.ndarray], num_classes: int) -> np.ndarray:
    if not a:
        return np.zeros((0, len(b)))
    x, y = np.stack(a), np.stack(b)
    total, held = np.zeros((2, len(a), len(b)))
    for k in range(1, num_classes):
        u, v = (x == k).astype(np.float32), (y == k).astype(np.float32)
        sizes = u.sum(axis=1)[:, None] + v.sum(axis=1)[None]
        total += 2 * (u @ v.T) / np.maximum(sizes, 1)
        held += sizes > 0
    return total / np.maximum(held, 1)


def _between(a: Sequence[Footprint], b: Sequence[Footprint], name: str, measure: Callable) -> np.ndarray:
    table = np.full((len(a), len(b)), np.nan)
    rows, columns = ([i for i, f in enumerate(side) if getattr(f, name) is not None] for side in (a, b))
    if rows and columns:
        x, y = (np.stack([getattr(s[i], name) for i in which]) for s, which in ((a, rows), (b, columns)))
        table[np.ix_(rows, columns)] = measure(x, y)
    return table


def _minus_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
    return -np.sqrt(squares.clip(min=0))


def verdicts(made: np.ndarray, real: np.ndarray, held: np.ndarray, patients: Sequence[str]) -> dict[str, Any]:
    """Copies among generated cases by one measure: `made` (N, T), `real` (T, T) and `held` (H, T) are nearness to the T
    training cases of these patients, of generated cases, training cases and patients kept apart (H may be 0).

    SourceError where all training cases are of one patient, since then nobody is another.
    """
    index = np.unique(np.asarray(patients), return_inverse=True)[1]
    own = index[:, None] == index[None]
    others = np.where(own, np.nan, real)
    others = others[np.isfinite(others).any(axis=1)]
    if not len(others):
        raise SourceError("all training cases with a CT are of one patient; how near two people come is unknown.")
    between = np.nanmax(others, axis=1)
    threshold = float(np.percentile(between, 100 - _PERCENTILE))
    nearest = np.nanmax(made, axis=1)
    copies = np.where(own & ~np.eye(len(index), dtype=bool), real, np.nan)
    return {
        "threshold": round(threshold, 4),
        "threshold_percentile_of_distance": _PERCENTILE,
        "share_nearer": round(float((nearest > threshold).mean()), 3),
        "num_nearer": int((nearest > threshold).sum()),
        "nearest_generated": _spread(nearest),
        "nearest_other_patient": _spread(between),
        "control_warped_copies_found": _share_above(copies, threshold),
        "control_held_out_patients_found": _share_above(held, threshold),
        "num_held_out": len(held),
        "num_generated": len(nearest),
        "num_training": len(between),
    }


def _share_above(table: np.ndarray, threshold: float) -> float | None:
    table = table[np.isfinite(table).any(axis=1)]
    return round(float((np.nanmax(table, axis=1) > threshold).mean()), 3) if len(table) else None


def _spread(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return {"p5": round(float(low), 4), "median": round(float(middle), 4), "p95": round(float(high), 4)}


def measure(
    made: Sequence[Footprint], training: Sequence[Footprint], held: Sequence[Footprint], num_classes: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Figures by measure, JSON ready, and the nearness (N, T) that they come from. `held` are patients kept apart."""
    to_real, among, apart = (nearness(side, training, num_classes) for side in (made, training, held))
    patients = [f.patient for f in training]
    rows = {name: verdicts(to_real[name], among[name], apart[name], patients) for name in MEASURES}
    return {name: {"is": MEASURES[name], **row} for name, row in rows.items()}, to_real


def main() -> None:
    """Measures, writes results/NAME.json, and draws the closest pairs as NAME.png beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder of `guidegen prepare` that the model was trained on")
    parser.add_argument("--model", default="torso")
    parser.add_argument("--num", type=int, default=33, help="cases to generate")
    parser.add_argument("--features", default="autoencoder", help="autoencoder, astra or MODULE:FUNCTION")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="six cases beside at most 60 training cases: minutes")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "guidegen-benchmarks")
    parser.add_argument("--name", default="memorisation", help="of the results file and the sheet")
    args = parser.parse_args()
    keep_freed_memory()
    if args.quick:
        args.num, args.name = min(args.num, 6), f"{args.name}_quick"
    pipe, net = GuideGenPipeline.from_pretrained(args.model), network(args.features)
    check_vocabulary(args.prepared, pipe.anatomy)
    paths = case_paths(training_folder(args.prepared))
    paths = paths[:: max(1, len(paths) // 60)] if args.quick else paths
    store, anatomy = Store(args.work / "features"), pipe.anatomy
    # One case in memory at a time: hundreds of CTs would need gigabytes.
    training = [footprint(load_case(p), anatomy, net, store) for p in tqdm(paths, desc="training cases", disable=None)]
    chosen = [load_case(paths[i]) for i in one_a_patient_first([f.patient for f in training], args.num)]
    made = generated(pipe, chosen, args.seed, args.work / "cases")
    prints = [footprint(case, anatomy, net, store) for case in tqdm(made, desc="comparing", disable=None)]
    apart = validation_folder(args.prepared)
    held = [footprint(load_case(p), anatomy, net, store) for p in (case_paths(apart) if apart else [])]
    by_measure, to_real = measure(prints, training, held, anatomy.num_classes)
    figures = {
        "model_sha256": pipe.fingerprint,
        "num_cases": len(made),
        "num_training_cases": len(training),
        "num_training_patients": len({f.patient for f in training}),
        "grid_mm": _GRID_MM,
        "features": {"name": net.name, **net.about},
        "by_measure": by_measure,
    }
    save(args.name, figures, seed=args.seed)
    closest_pairs_sheet(made, lambda j: load_case(paths[j]), to_real, anatomy).save(RESULTS / f"{args.name}.png")


if __name__ == "__main__":
    main()
