"""Stage 1 data: prepared label maps on the sampler's grid, with the tokens of prompts that describe them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from guidegen_data.anatomy import PHASES, Anatomy
from guidegen_data.anatomy_files import register
from guidegen_data.cleanup import nearest_kept
from guidegen_data.errors import ModelError
from guidegen_data.lesions import MIN_LESION_VOXELS, lesion_size_mm
from guidegen_data.models.anchors import anchor_balls
from guidegen_data.models.layout import block_fractions
from guidegen_data.models.mask_sampler import LayoutInput, MaskCondition, MaskSampler
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.fields import field_names, field_values
from guidegen_data.reports.findings import MAX_LESIONS, SEXES, Findings
from guidegen_data.sources.prepared import load_case, training_paths, write_text
from guidegen_data.sources.processes import spread, worth_starting
from guidegen_data.training.told import tokens_of

#: Classes that would vanish when two voxels become one: they win a coarse voxel with a smaller share.
_FINE_WEIGHT = {"tumour": 1.5, "adrenal gland": 2.0, "portal and splenic vein": 1.7, "esophagus": 1.5, "rib": 1.5}

#: Layouts are told with this error, in standard deviations: those that are drawn fit no patient exactly.
_LAYOUT_NOISE = 0.2

_VOLUME_RATIO = "volume_ratio.json"


def coarsen_labels(label_map: np.ndarray, anatomy: Anatomy, factor: int = 2) -> np.ndarray:
    """The class with the largest weighted share of each factor^3 block. (X, Y, Z) -> (X/f, Y/f, Z/f) uint8."""
    x, y, z = (n // factor for n in label_map.shape)
    blocks = label_map.reshape(x, factor, y, factor, z, factor).transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, -1)
    best = np.zeros((x, y, z), np.float32)
    out = np.zeros((x, y, z), np.uint8)
    for value in np.unique(label_map):
        weight = _FINE_WEIGHT.get(anatomy.classes[int(value)].name, 1.0)
        share = (blocks == value).sum(axis=-1, dtype=np.float32) * weight
        wins = share > best
        best[wins], out[wins] = share[wins], value
    return out


def vary(findings: Findings, rng: np.random.Generator) -> Findings:
    """The same findings with what the label map does not show drawn anew (phase, sex, age), habitus told or not."""
    return replace(
        findings,
        phase=str(rng.choice(["", *PHASES])),
        sex=str(rng.choice(["", *SEXES])),
        age_decade=int(rng.integers(2, 10)) * 10 if rng.random() < 0.6 else None,
        habitus=findings.habitus if rng.random() < 0.6 else "",
    )


def lesion_places(label_map: np.ndarray, anatomy: Anatomy, factor: int) -> np.ndarray:
    """(MAX_LESIONS, 4) float32: centre x, y, z and longest diameter in voxels of the coarse grid; zeros where none."""
    pieces, count = ndimage.label(label_map == anatomy.lesion_id)
    places = np.zeros((MAX_LESIONS, 4), np.float32)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    largest = [int(k) for k in np.argsort(-sizes)[:MAX_LESIONS] if sizes[k] >= MIN_LESION_VOXELS]
    for row, k in enumerate(largest):
        mask = pieces == k + 1
        places[row, :3] = (np.argwhere(mask).mean(axis=0) + 0.5) / factor - 0.5
        places[row, 3] = lesion_size_mm(mask, anatomy.spacing_mm, anatomy) / anatomy.spacing_mm[0] / factor
    return places


@dataclass(frozen=True)
class MaskData:
    """Label maps (N, X, Y, Z) uint8, their lesions' places (N, M, 4), and for V versions of each what is told of it:
    tokens (N, V, L, D) float16 and fields (N, V, F) float32. `volume_ratio` (K,) is the volume of a class in the fine
    maps over its volume in the coarse ones, 1 where it has none: see `upsample_keeping_volumes`. `healthy` (N, X, Y, Z)
    are the label maps with every lesion voxel given to its neighbours: layouts are made of those."""

    labels: Tensor
    places: Tensor
    tokens: Tensor
    fields: Tensor
    volume_ratio: Tensor
    num_classes: int
    healthy: Tensor

    def to(self, device: torch.device) -> MaskData:
        """The same data on a device, from where it is drawn."""
        labels, places, tokens, fields = (t.to(device) for t in (self.labels, self.places, self.tokens, self.fields))
        healthy = self.healthy.to(device)
        return MaskData(labels, places, tokens, fields, self.volume_ratio, self.num_classes, healthy)

    def class_weight(self) -> Tensor:
        """(K,) loss weights: inverse frequency to the power 0.75, between 0.3 and 60.

        A lesion holds one voxel in three thousand: with milder weights it has no part in the gradient and is never
        learned. The beliefs stay calibrated all the same, see `mask_loss`.
        """
        counts = torch.bincount(self.labels.flatten().long(), minlength=self.num_classes).cpu().double()
        frequency = (counts / counts.sum()).clamp(min=1e-7)
        return (1 / (frequency * self.num_classes)).pow(0.75).clamp(0.3, 60).float().to(self.labels.device)

    def batch(
        self, batch_size: int, generator: torch.Generator, layouts: LayoutInput | None = None
    ) -> tuple[Tensor, MaskCondition]:
        """Label maps (B, X, Y, Z) int64, moved up to two voxels sideways, and what is told of them.

        Anchors are moved and resized a little against the lesions they stand for, and so are layouts: a request is
        never exact.
        """
        which = torch.randint(len(self.labels), (batch_size,), generator=generator)
        version = torch.randint(self.tokens.shape[1], (batch_size,), generator=generator)
        shift = torch.randint(-2, 3, (batch_size, 2), generator=generator)
        num_places = self.places.shape[1]
        moved = 0.4 * torch.randn(batch_size, num_places, 3, generator=generator)
        moved[..., :2] += shift[:, None]
        resized = 1 + 0.1 * (2 * torch.rand(batch_size, num_places, generator=generator) - 1)
        device = self.labels.device
        labels = _moved(self.labels, which, shift)
        layout = None
        if layouts is not None:
            layout = layouts.known(_moved(self.healthy, which, shift))
            layout[:, :-1] += _LAYOUT_NOISE * torch.randn(layout[:, :-1].shape, generator=generator).to(device)
        places = self.places[which.to(device)].clone()
        places[..., :3] += moved.to(device)
        places[..., 3] *= resized.to(device)
        which, version = which.to(device), version.to(device)
        told = MaskCondition(
            self.tokens[which, version].float(),
            self.fields[which, version],
            anchor_balls(places, tuple(labels.shape[1:])),
            layout,
        )
        return labels.long(), told


def _moved(labels: Tensor, which: Tensor, shift: Tensor) -> Tensor:
    """Some of the label maps, each moved by its own shift (2,) in x and y."""
    return torch.stack([labels[i].roll(tuple(s.tolist()), dims=(0, 1)) for i, s in zip(which, shift, strict=True)])


def fit_layouts(network: MaskSampler, data: MaskData) -> None:
    """Layouts and their prior, where a network has them, learned from training data.

    The components of a network that has some already are kept: its weights know them.
    """
    if network.layout is None:
        return
    space = network.layout.space
    fractions = torch.cat([block_fractions(m[None], network.num_classes, space.grid) for m in data.healthy.cpu()])
    if not space.basis.any():
        space.fit(fractions)
    layouts = space.project(fractions)
    versions = data.fields.shape[1]
    facts = data.fields.cpu()[:, :, network.layout.facts].flatten(0, 1)
    network.layout.prior.fit(layouts.repeat_interleave(versions, dim=0), facts)


def load_mask_data(
    folder: Path,
    anatomy: Anatomy,
    encoder: TextEncoder,
    shape: tuple[int, int, int],
    versions: int = 3,
    workers: int = 1,
    leave_out: Sequence[str] = (),
) -> MaskData:
    """Reads a prepared folder but the cases of `leave_out` once, with so many processes; what training needs of it is
    kept there for the next run.

    ModelError when the sampler's grid `shape` is no whole fraction of the anatomy's.
    """
    paths = training_paths(folder, leave_out)
    factor = anatomy.shape[0] // shape[0]
    if tuple(n * factor for n in shape) != tuple(anatomy.shape):
        raise ModelError(
            f"the sampler's grid {shape} must be a whole fraction of the {anatomy.name} table's {anatomy.shape}; give "
            f"the anatomy another shape, or start without --init."
        )
    cache = folder / f"masks-{_fingerprint(paths)}-f{factor}-v{versions}-healthy.pt"
    if not cache.exists():
        held = _read_mask_data(paths, _CaseReader(anatomy, encoder, factor, versions), workers)
        part = cache.with_suffix(".part")
        torch.save(held, part)
        os.replace(part, cache)
    return MaskData(**torch.load(cache, weights_only=True), num_classes=anatomy.num_classes)


def _fingerprint(paths: list[Path]) -> str:
    """Tells case files from others of the same number: their names, sizes and when they were written."""
    stats = [(path.name, path.stat()) for path in paths]
    told = json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def write_volume_ratio(ratio: Tensor, run_dir: Path) -> None:
    """Keeps it in the run folder, where `guidegen export` finds it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / _VOLUME_RATIO, json.dumps([round(float(v), 3) for v in ratio]))


def read_volume_ratio(run_dir: Path) -> list[float] | None:
    """What `write_volume_ratio` kept; None where a run has none."""
    path = run_dir / _VOLUME_RATIO
    return json.loads(path.read_text()) if path.exists() else None


@dataclass(frozen=True)
class _CaseReader:
    """What stage 1 learns from of one prepared case, as arrays: labels, healthy, places, tokens, fields, and the
    volumes (2, K) of its classes in the fine and the coarse label map, in coarse voxels."""

    anatomy: Anatomy
    encoder: TextEncoder
    factor: int
    versions: int

    def __call__(self, numbered: tuple[int, Path]) -> dict[str, np.ndarray]:
        register(self.anatomy)  # another process knows our own tables only
        number, path = numbered
        case, num_classes, names = load_case(path), self.anatomy.num_classes, field_names(self.anatomy)
        coarse = coarsen_labels(case.label_map, self.anatomy, self.factor)
        fine_volumes = np.bincount(case.label_map.ravel(), minlength=num_classes) / self.factor**3
        rng = np.random.default_rng(number)
        told = [vary(case.findings, rng) for _ in range(self.versions)]
        return {
            "labels": coarse,
            "healthy": nearest_kept(coarse, coarse == self.anatomy.lesion_id),
            "places": lesion_places(case.label_map, self.anatomy, self.factor),
            "tokens": tokens_of(self.encoder, told, path),
            "fields": np.stack([field_values(f, names) for f in told]),
            "volumes": np.stack([fine_volumes, np.bincount(coarse.ravel(), minlength=num_classes)]),
        }


def _read_mask_data(paths: list[Path], read: _CaseReader, workers: int) -> dict[str, Tensor]:
    with spread(worth_starting(workers, len(paths))) as run:
        cases = run(read, enumerate(paths))
        rows = list(tqdm(cases, total=len(paths), desc="reading cases", unit="case", disable=None))
    held = {name: np.stack([row.pop(name) for row in rows]) for name in list(rows[0])}
    volumes = held.pop("volumes").sum(axis=0)
    ratio = np.where(volumes.min(axis=0) > 0, volumes[0] / np.maximum(volumes[1], 1), 1.0)
    return {
        name: torch.from_numpy(array) for name, array in (held | {"volume_ratio": ratio.astype(np.float32)}).items()
    }
