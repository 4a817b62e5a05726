"""Stage 2 data: latents of prepared CTs (posterior means, encoded once), their label maps and their tokens."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guidegen_data.anatomy import PHASES, Anatomy
from guidegen_data.anatomy_files import register
from guidegen_data.errors import ModelError, SourceError
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.fat import DrawsTissues
from guidegen_data.models.hu_prior import median_hu, phase_row
from guidegen_data.models.inhomogeneity import inhomogeneity
from guidegen_data.models.precision import compute_dtype, place
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.findings import SEXES, Findings
from guidegen_data.sources.prepared import cases_digest, load_case, training_paths
from guidegen_data.sources.processes import spread, worth_starting
from guidegen_data.tissue_rule import loosened_case
from guidegen_data.training.told import tokens_of
from guidegen_data.training.weights import weights_digest

#: Prompts of one case that stage 2 learns from: they differ in what neither the map nor the data set tells.
_VERSIONS = 2
#: Share of their deviation within which the statistics of the same latents lie, encoded on another machine.
_SAME_STATISTICS = 0.02
#: How many slices below the previous one may lie where it is loose.
_FARTHEST = 8


@dataclass(frozen=True)
class LatentData:
    """N volumes: latents (N, Z, C, x, y) float16, label maps (N, X, Y, Z) uint8, with tissues where the slices are told
    of them, tokens of V versions of each prompt (N, V, L, D) float16, median HU of each class (N, K) float32, its
    inhomogeneity (N, K, 3) float32 in HU, and contrast phases (N,), -1 where none is told."""

    latents: Tensor
    labels: Tensor
    tokens: Tensor
    class_hu: Tensor
    inhomogeneity: Tensor
    phase: Tensor

    def to(self, device: torch.device) -> LatentData:
        """The same data on a device, from where it is drawn."""
        return LatentData(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def batch(self, batch_size: int, generator: torch.Generator, loose: bool = False) -> dict[str, Tensor]:
        """Random slices as the arguments of `slice_loss`; one slice in twelve is taken as the first of its volume.

        Where the label map tells of the whole body the previous slice may be `loose`: one slice in three is a first one
        and one in three has one from up to eight slices below. Then what lies where comes from the label map alone, and
        what was drawn wrong in one slice is not carried on to the next.
        """
        count, depth = self.latents.shape[:2]
        n = torch.randint(count, (batch_size,), generator=generator)
        z = torch.randint(depth, (batch_size,), generator=generator)
        version = torch.randint(self.tokens.shape[1], (batch_size,), generator=generator)
        chance = torch.rand(batch_size, generator=generator)
        first = (chance < (1 / 3 if loose else 1 / 12)) | (z == 0)
        below = torch.ones_like(z)
        if loose:
            far = torch.randint(2, _FARTHEST + 1, (batch_size,), generator=generator)
            below = torch.where(chance > 2 / 3, far, below)
        near = torch.stack([(z + k).clamp(0, depth - 1) for k in (-1, 0, 1)], dim=1)
        n, z, version, first, near, below = (t.to(self.latents.device) for t in (n, z, version, first, near, below))
        labels = self.labels[n[:, None], :, :, near]  # what is indexed comes first: (B, 3, X, Y)
        return {
            "latents": self.latents[n, z].float(),
            "previous": self.latents[n, (z - below).clamp(min=0)].float(),
            "has_previous": ~first,
            "labels": labels,
            "tokens": self.tokens[n, version].float(),
            "class_hu": self.class_hu[n],
        }


@torch.inference_mode()
def measure_latents(autoencoder: CTAutoencoder, volumes_hu: list[Tensor]) -> None:
    """Sets the autoencoder's latent mean and standard deviation a channel from volumes (X, Y, Z) in HU, in place."""
    autoencoder.latent_mean.zero_()
    autoencoder.latent_std.fill_(1)
    parts = [encode_volume(autoencoder, v[:, :, ::4]).transpose(0, 1).flatten(1) for v in volumes_hu]
    values = torch.cat(parts, dim=1)
    autoencoder.latent_mean.copy_(values.mean(dim=1).view(1, -1, 1, 1))
    autoencoder.latent_std.copy_(values.std(dim=1).clamp(min=1e-3).view(1, -1, 1, 1))


@torch.inference_mode()
def encode_volume(autoencoder: CTAutoencoder, ct_hu: Tensor, batch_size: int = 16) -> Tensor:
    """Standardised latents (Z, C, x, y) float32 of a CT (X, Y, Z) in HU."""
    device = autoencoder.latent_mean.device
    slices = ct_hu.permute(2, 0, 1).unsqueeze(1).float()
    return torch.cat([autoencoder.encode(part.to(device)).float() for part in slices.split(batch_size)])


def load_latent_data(
    folder: Path,
    anatomy: Anatomy,
    autoencoder: CTAutoencoder,
    encoder: TextEncoder,
    cache: Path,
    measured: bool = False,
    workers: int = 1,
    tissue: DrawsTissues | None = None,
    loose_tissues: bool = False,
    leave_out: Sequence[str] = (),
) -> LatentData:
    """Encodes every prepared case that has a CT but those of `leave_out`, once, read by so many processes; kept in
    `cache` for the next run.

    With a `tissue` network its tissues are further classes of the label maps; with `loose_tissues` those of the table
    are smoothed (`tissue_rule.loosened`). ModelError where what is kept is of others, of another autoencoder or other
    cases, or of an earlier version.

    The latent statistics are measured on some of the cases first, unless they were `measured` on others already.
    SourceError when no case has a CT.
    """
    names, paths = [f.name for f in fields(LatentData)], training_paths(folder, leave_out)
    held = torch.load(cache, weights_only=True) if cache.exists() else {}
    made_of = {
        "tissue": "" if tissue is None else tissue.told_by(weights_digest),
        "loose_tissues": loose_tissues,
        # Without its statistics, which are those of what is kept.
        "autoencoder": weights_digest(autoencoder.vae.state_dict()),
        "cases": cases_digest(paths),
    }
    whole = held.keys() >= set(names)  # unlike one written before there was all of this
    if whole:
        _check_begun_with(held, made_of, cache.parent)
    if whole and held.keys() >= made_of.keys():
        autoencoder.latent_mean.copy_(held["mean"])
        autoencoder.latent_std.copy_(held["std"])
        return LatentData(*(held[name] for name in names))
    if not measured:
        measure_latents(autoencoder, _some_volumes(paths))
    if whole:
        # It does not tell what it is made of: made again it is of what is shipped, but the network that was begun with
        # it must know these latents.
        _check_statistics(autoencoder, held, cache.parent)
    data = _encoded(paths, _CaseReader(anatomy, encoder, loose_tissues), autoencoder, tissue, workers)
    _keep(data, autoencoder, made_of, cache)
    return data


def _keep(data: LatentData, autoencoder: CTAutoencoder, made_of: Mapping[str, Any], cache: Path) -> None:
    """Writes latents with their statistics and what they are made of, whole or not at all."""
    state = {f.name: getattr(data, f.name) for f in fields(data)}
    state |= {"mean": autoencoder.latent_mean.cpu(), "std": autoencoder.latent_std.cpu()}
    part = cache.with_suffix(".part")
    torch.save({**state, **made_of}, part)
    os.replace(part, cache)


def _check_begun_with(held: Mapping[str, Any], made_of: Mapping[str, Any], run: Path) -> None:
    """ModelError where latents that are kept are made of anything else, as far as they tell."""
    if held.get("tissue", "") != made_of["tissue"]:
        raise ModelError(
            f"{run} was begun {'with other' if held.get('tissue') else 'without'} tissues"
            f"{'' if made_of['tissue'] else ', and none are given now'}; use the same ones, or another run folder."
        )
    if held.get("loose_tissues", False) != made_of["loose_tissues"]:
        raise ModelError(
            f"{run} was begun with{'' if held.get('loose_tissues') else 'out'} loose tissues; go on with the same "
            f"choice, or in another run folder."
        )
    if held["inhomogeneity"].shape[-1] != 3:
        raise ModelError(
            f"{run} was begun when organs were not measured along the body yet; go on with it in another run folder, "
            f"by --init {run}."
        )
    for name, what in (("autoencoder", "another autoencoder"), ("cases", "other cases")):
        if held.get(name, made_of[name]) != made_of[name]:
            raise ModelError(f"{run} was begun with {what}; use the same as then, or another run folder.")


def _check_statistics(autoencoder: CTAutoencoder, held: Mapping[str, Any], run: Path) -> None:
    """ModelError where the latents of an autoencoder have another mean or deviation than those that are kept."""
    mean, std = autoencoder.latent_mean.cpu(), autoencoder.latent_std.cpu()
    apart = torch.cat([mean - held["mean"], std - held["std"]]) / held["std"]
    if float(apart.abs().max()) > _SAME_STATISTICS:
        raise ModelError(
            f"{run} was begun with another autoencoder or other cases, of whose latents the mean and deviation were "
            f"others; use the same as then, or another run folder."
        )


def _encoded(
    paths: Sequence[Path],
    read: _CaseReader,
    autoencoder: CTAutoencoder,
    tissue: DrawsTissues | None,
    workers: int,
) -> LatentData:
    """What is learned of these cases; SourceError when none has a CT."""
    # In the precision in which it draws for the slices later on.
    where = autoencoder.latent_mean.device
    placed = None if tissue is None else place(copy.deepcopy(tissue), where, compute_dtype(where))
    rows: list[dict[str, Any]] = []
    with spread(worth_starting(workers, len(paths))) as run:
        cases = run(read, enumerate(paths))
        for row in tqdm(cases, total=len(paths), desc="encoding", unit="case", disable=None):
            if row is not None:
                ct_hu = row.pop("ct_hu")
                if placed is not None:
                    row |= _with_tissues(row, ct_hu, placed)
                latents = encode_volume(autoencoder, torch.from_numpy(ct_hu)).half().cpu()
                rows.append({"latents": latents, **{name: torch.from_numpy(v) for name, v in row.items()}})
    if not rows:
        raise SourceError(
            f"{paths[0].parent} holds no case with a CT; stage 2 cannot be trained from label maps alone."
        )
    return LatentData(**{f.name: torch.stack([row.pop(f.name) for row in rows]) for f in fields(LatentData)})


def _with_tissues(row: dict[str, Any], ct_hu: np.ndarray, tissue: DrawsTissues) -> dict[str, np.ndarray]:
    """Label map, HU and inhomogeneity of a row with the tissues as further classes; none is held to be even."""
    device, num_classes, more = next(tissue.parameters()).device, tissue.num_table_classes, tissue.num_tissues
    labels = tissue.told(*(torch.from_numpy(x).to(device) for x in (row["labels"], ct_hu))).cpu().numpy()
    class_hu = median_hu(ct_hu, labels, num_classes + more)
    known = row["class_hu"]
    # A class that tissues lie in is what is left of it.
    return {
        "labels": labels,
        "class_hu": np.concatenate([np.where(np.isnan(known), known, class_hu[:num_classes]), class_hu[num_classes:]]),
        "inhomogeneity": np.pad(row["inhomogeneity"], ((0, more), (0, 0)), constant_values=np.nan),
    }


@dataclass(frozen=True)
class _CaseReader:
    """What stage 2 learns from of one prepared case, as arrays, with its CT in HU for the latents; None without CT."""

    anatomy: Anatomy
    encoder: TextEncoder
    loose_tissues: bool = False

    def __call__(self, numbered: tuple[int, Path]) -> dict[str, np.ndarray] | None:
        register(self.anatomy)  # another process knows our own tables only
        number, path = numbered
        case, untold = load_case(path), (0, self.anatomy.lesion_id)
        if case.ct_hu is None:
            return None
        rng = np.random.default_rng(number)
        labels, num_classes = case.label_map, self.anatomy.num_classes
        if self.loose_tissues:
            labels = loosened_case(labels, self.anatomy, np.random.default_rng([number, 1]))
        ct, label_map = torch.from_numpy(case.ct_hu), torch.from_numpy(labels)
        told = [_with_a_phase(case.findings, rng) for _ in range(_VERSIONS)]
        return {
            "ct_hu": case.ct_hu,
            "labels": labels,
            "tokens": tokens_of(self.encoder, told, path),
            "class_hu": median_hu(case.ct_hu, labels, num_classes, untold),
            "inhomogeneity": inhomogeneity(ct, label_map, num_classes, self.anatomy.spacing_mm, untold).numpy(),
            "phase": np.array(phase_row(case.findings.phase)),
        }


def _some_volumes(paths: Sequence[Path]) -> list[Tensor]:
    """Up to 24 CTs (X, Y, Z) in HU, spread over the files as far as they have CTs; SourceError when none has."""
    volumes: list[Tensor] = []
    for path in [*paths[:: max(1, len(paths) // 24)], *paths]:
        if len(volumes) < 24 and (ct := load_case(path).ct_hu) is not None:
            volumes.append(torch.from_numpy(ct))
    if not volumes:
        raise SourceError(f"{paths[0].parent} holds no case with a CT; stage 2 cannot be trained from labels alone.")
    return volumes


def _with_a_phase(findings: Findings, rng: np.random.Generator) -> Findings:
    """The findings with a phase, a sex and an age drawn where none is stated: prompts that name one are no surprise."""
    return replace(
        findings,
        phase=findings.phase or str(rng.choice(["", *PHASES])),
        sex=findings.sex or str(rng.choice(["", *SEXES])),
        age_decade=int(rng.integers(2, 10)) * 10
        if findings.age_decade is None and rng.random() < 0.6
        else findings.age_decade,
    )
