"""What a fidelity run measures with: networks of volumes and of slices, and a store of what they said before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.features import PLANES, FeatureNetwork, body_slices, slice_maps, vectors, volume_maps


@dataclass(frozen=True)
class Store:
    """Arrays on disk under the digest of what they were made of, so that a run goes on where it ended."""

    folder: Path

    def get(self, key: Sequence[Any], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What `make` returned for this key (strings, numbers, arrays), now or in an earlier run."""
        digest = hashlib.blake2b(digest_size=16)
        for item in key:
            array = isinstance(item, np.ndarray)
            digest.update(np.ascontiguousarray(item).tobytes() if array else repr(item).encode() + b"\0")
        path = self.folder / f"{digest.hexdigest()}.npz"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.stem}.part-{os.getpid()}.npz")
            np.savez(part, **make())  # type: ignore[arg-type]
            os.replace(part, path)
        with np.load(path) as data:
            return {name: data[name] for name in data.files}


@dataclass(frozen=True)
class Ruler:
    """Networks of volumes and of slices, where their results are kept, and every which slice is looked at."""

    volumes: FeatureNetwork
    slices: FeatureNetwork
    store: Store
    every: int = 4

    def maps(self, ct_hu: np.ndarray) -> list[np.ndarray]:
        """Maps (C, x, y, z) of a CT, float16 of length 1 along channels."""

        def make() -> dict[str, np.ndarray]:
            maps = volume_maps(self.volumes, ct_hu, self.every)
            held = {f"layer{k}": _unit(m).astype(np.float16) for k, m in enumerate(maps)}
            return held | {"vector": vectors(self.volumes, maps[-1][None])}

        held = self.store.get(["volume", self.volumes.name, repr(self.volumes.about), self.every, ct_hu], make)
        return [held[f"layer{k}"] for k in range(len(held) - 1)] + [held["vector"]]

    def samples(self, ct_hu: np.ndarray, space: str) -> np.ndarray:
        """Feature vectors (S, D) of a CT: one of the volume, or one of each slice across a plane that shows a body."""
        if space == "volume":
            return self.maps(ct_hu)[-1]

        def make() -> dict[str, np.ndarray]:
            shown = body_slices(ct_hu, space, self.every) or [ct_hu.shape[PLANES[space]] // 2]
            return {"vectors": vectors(self.slices, slice_maps(self.slices, ct_hu, space, which=shown)[-1])}

        return self.store.get([space, self.slices.name, repr(self.slices.about), self.every, ct_hu], make)["vectors"]


def _unit(m: np.ndarray) -> np.ndarray:
    return m / np.sqrt((m**2).sum(axis=0, keepdims=True) + 1e-10)
