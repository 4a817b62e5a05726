"""Pictures of what a network in training makes: pairs of rows, what is real above what is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from guidegen_data.anatomy import Anatomy
from guidegen_data.diffusion.categorical import CategoricalScheduler
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.mask_sampler import MaskCondition
from guidegen_data.models.sampling import sample_masks

_WINDOW_HU = (-160.0, 240.0)
_MASK_STEPS, _SLICE_STEPS = 12, 8
_SIDE = 192
#: Of air, fat, soft tissue, bone, and of voxels that have a class.
_TISSUE_COLOURS = np.array([(0, 0, 0), (235, 205, 120), (170, 80, 75), (245, 245, 235), (80, 84, 96)], np.uint8)


@torch.no_grad()
def autoencoder_sheet(model: nn.Module, ct_hu: Tensor, path: Path, labels: Tensor | None = None) -> None:
    """Slices (B, 1, X, Y) above their reconstructions; with labels (B, X, Y) above those that know them too."""
    latents = model.encode(ct_hu)
    rows = [ct_hu, model.decode(latents)] + ([] if labels is None else [model.decode(latents, labels)])
    _save([[_grey(x[0]) for x in row] for row in rows], path)


@torch.no_grad()
def mask_sheet(
    model: nn.Module,
    scheduler: CategoricalScheduler,
    real: Tensor,
    condition: MaskCondition,
    anatomy: Anatomy,
    path: Path,
) -> None:
    """Label maps (B, X, Y, Z) above those drawn from the same findings, in the coronal plane of most labels."""
    generators = [torch.Generator().manual_seed(k) for k in range(len(real))]
    made = sample_masks(model, scheduler, condition, generators, tuple(real.shape[1:]), _MASK_STEPS, 1.5)
    label_sheet(real, made, anatomy, path)


def label_sheet(real: Iterable[Tensor], made: Iterable[Tensor], anatomy: Anatomy, path: Path) -> None:
    """Label maps (X, Y, Z) above those made for them, each in the coronal plane of most labels."""
    _save([[_colour(m, anatomy) for m in maps] for maps in (real, made)], path)


def detail_sheet(
    real: Iterable[Tensor],
    coarse: Iterable[Tensor],
    made: Iterable[Tensor],
    anatomy: Anatomy,
    classes: Sequence[int],
    path: Path,
) -> None:
    """Label maps (X, Y, Z), their smoothed versions, and what was made of these, in the sagittal plane that holds most
    of the classes, the first of which is what lies between the others."""
    rows: list[list[np.ndarray]] = [[], [], []]
    colours = np.array([c.colour for c in anatomy.classes], np.uint8)
    for maps in zip(real, coarse, made, strict=True):
        shown = torch.isin(maps[1].cpu(), torch.tensor(classes[1:]))
        plane = int(shown.sum(dim=(1, 2)).argmax())
        for row, label_map in zip(rows, maps, strict=True):
            row.append(colours[label_map.cpu().numpy()[plane, ::-1, ::-1].T])
    _save(rows, path)


def tissue_sheet(real: Tensor, made: Tensor, label_maps: Tensor, path: Path) -> None:
    """Tissues (B, X, Y, Z) above those drawn around the same label maps, in the middle coronal plane."""
    middle = real.shape[2] // 2
    rows = [torch.where(label_maps.cpu() > 0, 4, t.cpu())[:, :, middle].numpy() for t in (real, made)]
    _save([[_TISSUE_COLOURS[plane[::-1, ::-1].T] for plane in row] for row in rows], path)


def fat_sheet(real: Iterable[Tensor], made: Iterable[Tensor], anatomy: Anatomy, path: Path) -> None:
    """Label maps (X, Y, Z) with the fat of their CTs above those with fat that was drawn, in the axial plane of most
    soft tissue; fat is one class more than the table has."""
    colours = np.array([*(c.colour for c in anatomy.classes), _TISSUE_COLOURS[1]], np.uint8)
    rows: list[list[np.ndarray]] = [[], []]
    for maps in zip(real, made, strict=True):
        plane = int((maps[0].cpu() > 0).sum(dim=(0, 1)).argmax())
        for row, label_map in zip(rows, maps, strict=True):
            row.append(colours[label_map.cpu().numpy()[::-1, ::-1, plane].T])
    _save(rows, path)


@torch.no_grad()
def slice_sheet(model: nn.Module, autoencoder: CTAutoencoder, batch: Mapping[str, Tensor], path: Path) -> None:
    """Slices above those drawn for the same mask slice, text and previous slice, by Euler steps of the flow."""
    latents = batch["latents"]
    x = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    has = batch["has_previous"].view(-1, 1, 1, 1)
    previous = torch.where(has, batch["previous"], torch.zeros_like(batch["previous"]))
    level = (~batch["has_previous"]).float()
    mask = model.encode_mask(batch["labels"], batch["class_hu"])
    levels = torch.linspace(1, 0, _SLICE_STEPS + 1)
    for now, then in pairwise(levels):
        sigma = now.expand(len(x)).to(x)
        x = x + (then - now).to(x) * model(x, sigma, mask, previous, level, batch["tokens"]).to(x)
    rows = [autoencoder.decode(z.to(latents)) for z in (latents, x)]
    _save([[_grey(s[0]) for s in row] for row in rows], path)


def _grey(ct_hu: Tensor) -> np.ndarray:
    """(X, Y) HU -> (rows, columns, 3) uint8 as a radiologist sees it."""
    low, high = _WINDOW_HU
    grey = ((ct_hu.float().cpu() - low) / (high - low)).clamp(0, 1).mul(255).byte().numpy()
    return np.repeat(grey[::-1, ::-1].T[..., None], 3, axis=2)


def _colour(label_map: Tensor, anatomy: Anatomy) -> np.ndarray:
    """The coronal plane (rows, columns, 3) of a label map (X, Y, Z) that holds most labels."""
    labels = label_map.cpu().numpy()
    plane = labels[:, int((labels > 0).sum(axis=(0, 2)).argmax())]
    colours = np.array([c.colour for c in anatomy.classes], np.uint8)
    return colours[plane[::-1, ::-1].T]


def _save(rows: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    pictures = [[Image.fromarray(np.ascontiguousarray(p)).resize((_SIDE, _SIDE)) for p in row] for row in rows]
    sheet = Image.new("RGB", (_SIDE * max(map(len, pictures)), _SIDE * len(pictures)))
    for j, row in enumerate(pictures):
        for i, picture in enumerate(row):
            sheet.paste(picture, (_SIDE * i, _SIDE * j))
    sheet.save(path)
