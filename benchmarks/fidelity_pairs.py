"""Perceptual distances of defined pairs of CTs and of masks, beside pairs of two real patients."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.features import PLANES, body_slices, perceptual, slice_maps
from benchmarks.fidelity_ruler import Ruler
from guidegen_data.metrics.reconstruction import reconstruct
from guidegen_data.models.autoencoder import CTAutoencoder

#: name -> what is set beside what
PAIRS = {
    "generated": "generated beside the real case whose findings it was generated for",
    "of_real_label_map": "CT made by stage 2 from a real label map, beside that map's real CT",
    "autoencoded": "real CT through the model's autoencoder and back, beside itself: the best that stage 2 can reach",
    "two_patients": "real beside the real case of another patient: the floor of a generator that makes new people",
}


def measure(
    ruler: Ruler,
    autoencoder: CTAutoencoder,
    cts: dict[str, list[np.ndarray]],
    masks: list[list[np.ndarray]],
    patients: list[str],
    seed: int,
) -> dict[str, Any]:
    """Mean and spread over pairs, in volumes and in each plane, of images and of masks."""
    others = _other_patients(patients, seed)
    again = [reconstruct(autoencoder, ct) for ct in tqdm(cts["real"], desc="autoencoder", disable=None)]
    shown = {
        "generated": (cts["made"], cts["real"]),
        "of_real_label_map": (cts["staged"], cts["real"]),
        "autoencoded": (again, cts["real"]),
        "two_patients": ([cts["real"][k] for k in others], cts["real"]),
    }
    drawn = {"generated": (masks[1], masks[0]), "two_patients": ([masks[0][k] for k in others], masks[0])}
    return {
        "pairs": PAIRS,
        "images": {name: _over_pairs(ruler, *sides) for name, sides in shown.items()},
        "masks": {name: _over_pairs(ruler, *sides) for name, sides in drawn.items()},
    }


def _other_patients(patients: list[str], seed: int) -> list[int]:
    """For each case the number of a random case of another patient."""
    rng, names = np.random.default_rng(seed), np.asarray(patients)
    return [int(rng.choice(np.flatnonzero(names != name))) for name in names]


def _over_pairs(ruler: Ruler, a: list[np.ndarray], b: list[np.ndarray]) -> dict[str, Any]:
    rows = [apart(ruler, x, y) for x, y in tqdm(list(zip(a, b, strict=True)), desc="pairs", disable=None)]
    return {
        space: {
            "mean": round(float(np.mean([r[space] for r in rows])), 4),
            "sd": round(float(np.std([r[space] for r in rows])), 4),
            "num": len(rows),
        }
        for space in rows[0]
    }


def apart(ruler: Ruler, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Perceptual distance of two CTs (X, Y, Z) as volumes, and as slices that show a body in either, plane by plane."""

    def make() -> dict[str, np.ndarray]:
        found = {"volume": perceptual(ruler.maps(a)[:-1], ruler.maps(b)[:-1])}
        for plane in PLANES:
            which = sorted({*body_slices(a, plane, ruler.every), *body_slices(b, plane, ruler.every)})
            one, other = (slice_maps(ruler.slices, v, plane, which=which or [0]) for v in (a, b))
            found[plane] = perceptual(one, other, channels=1)
        return {name: np.array(value) for name, value in found.items()}

    nets = [repr((net.name, net.about)) for net in (ruler.volumes, ruler.slices)]
    return {k: float(v) for k, v in ruler.store.get(["pair", *nets, ruler.every, a, b], make).items()}
