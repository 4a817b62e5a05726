"""Training one stage from a folder: builds the network, the data and the loss, and hands them to `fit`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import torch
from torch import Tensor, nn

from guidegen_data.anatomy import Anatomy
from guidegen_data.anatomy_files import FILE_NAME, unregistered_anatomy, write_anatomy
from guidegen_data.diffusion.categorical import CategoricalScheduler
from guidegen_data.errors import ModelError, SourceError
from guidegen_data.models.autoencoder import CTAutoencoder, autoencoder_loss
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler, mask_loss
from guidegen_data.models.precision import channels_last, contiguous, mixed_precision
from guidegen_data.models.slice_generator import SliceGenerator, slice_loss
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.fields import field_names
from guidegen_data.sources.bases import ct_paths, is_raw
from guidegen_data.sources.prepared import case_paths, load_cases, training_folder, training_paths, validation_folder
from guidegen_data.sources.volumes import Volume, read_ct, resample_ct, without_table
from guidegen_data.tissue_rule import tissue_ids
from guidegen_data.training.beside import autoencoder_beside, tissue_beside
from guidegen_data.training.ct_slices import SliceSource
from guidegen_data.training.fit import FitConfig, Step, fit, step_generator
from guidegen_data.training.initial import Initial, initial_network, start_from
from guidegen_data.training.latents import LatentData, load_latent_data
from guidegen_data.training.masks import MaskData, fit_layouts, load_mask_data, write_volume_ratio
from guidegen_data.training.parallel import Parallel, join
from guidegen_data.training.recipes import StageRecipe
from guidegen_data.training.run_state import has_state
from guidegen_data.training.sheets import autoencoder_sheet, mask_sheet, slice_sheet
from guidegen_data.training.teacher import check_taken, settle_latents

#: Batches that a validation takes, and the seed of all its random numbers.
_VALIDATION_BATCHES, SHEET_SEED = 8, 20_240_311
_LEAST_LOSS = 1e-9


@dataclass(frozen=True)
class Setting:
    """What every stage needs beside its data: run folder, recipe, label table, device, and the model it starts from.

    Cases are read by so many `workers`, once. Of the volumes of `leave_out` nothing is trained on.
    """

    run_dir: Path
    recipe: StageRecipe
    anatomy: Anatomy
    device: str = "cpu"
    initial: str | None = None
    sheets: bool = True
    workers: int = 1
    leave_out: tuple[str, ...] = ()


def read_training_cts(
    folder: Path, spacing_mm: tuple[float, float, float], leave_out: Sequence[str] = (), workers: int = 1
) -> list[Tensor]:
    """Every CT of a folder but those left out, (X, Y, Z) in HU at the model's spacing: a prepared folder's, or raw ones
    of NAME_ct files.

    Of raw ones two versions, float32: once anti-aliased and once sharp. Prepared ones are int16 as they are.
    """
    if not is_raw(folder):
        return _prepared_cts(training_paths(folder, leave_out), workers)
    volumes = []
    for path in ct_paths(folder, leave_out).values():
        ct = read_ct(path)
        ct = Volume(without_table(ct.array), ct.spacing_mm)
        volumes += [torch.from_numpy(resample_ct(ct, spacing_mm, sharp=s).array) for s in (False, True)]
    return volumes


def _prepared_cts(paths: Sequence[Path], workers: int = 1) -> list[Tensor]:
    held = [torch.from_numpy(c.ct_hu).short() for c in load_cases(paths, workers) if c.ct_hu is not None]
    if not held:
        raise SourceError(
            f"{paths[0].parent} holds no case with a CT; the autoencoder cannot be trained from labels alone."
        )
    return held


def train_autoencoder(folder: Path, setting: Setting) -> Iterator[Step]:
    """Trains the CT autoencoder on the CTs of a folder, prepared or as they are."""
    parallel, device = join(setting.device)
    network = initial_network(setting.initial, Initial.AUTOENCODER, setting.recipe.network)
    model = CTAutoencoder(**network)
    size, batch_size = setting.anatomy.shape[0], setting.recipe.fit.batch_size
    cts = read_training_cts(folder, setting.anatomy.spacing_mm, setting.leave_out, setting.workers)
    source = SliceSource(cts, size).to(device)
    held = validation_folder(folder) if setting.recipe.fit.validate_every else None
    apart = None if held is None else SliceSource(_prepared_cts(case_paths(held), setting.workers), size).to(device)

    def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return autoencoder_loss(model, source.batch(batch_size, generator), generator)._asdict()

    def loss_apart(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        assert apart is not None
        return autoencoder_loss(model, apart.batch(batch_size, generator), generator)._asdict()

    def sheet(model: nn.Module, path: Path) -> None:
        autoencoder_sheet(model, (apart or source).batch(6, step_generator(SHEET_SEED, 0)), path)

    start_from(model, setting.initial, Initial.AUTOENCODER)
    yield from fit_stage(model, loss_of, setting, parallel, device, loss_apart if apart else None, sheet)


def train_masks(folder: Path, setting: Setting, thin_weight: float = 0.0) -> Iterator[Step]:
    """Trains stage 1 on a prepared folder; thin parts and what lies beside them count `1 + thin_weight` times."""
    parallel, device = join(setting.device)
    anatomy, fit_config = setting.anatomy, setting.recipe.fit
    network = initial_network(setting.initial, Initial.MASKS, setting.recipe.network)
    table = {"num_classes": anatomy.num_classes, "lesion_class": anatomy.lesion_id}
    model = MaskSampler(fields=field_names(anatomy), **table, **network)
    shape = tuple(model.config.shape)
    held = validation_folder(folder) if fit_config.validate_every else None
    with parallel.first():
        read = partial(load_mask_data, anatomy=anatomy, encoder=TextEncoder(), shape=shape, workers=setting.workers)
        data = read(training_folder(folder), leave_out=setting.leave_out).to(device)
        apart = None if held is None else read(held).to(device)
    if parallel.is_main and not has_state(setting.run_dir):
        write_volume_ratio(data.volume_ratio, setting.run_dir)
    scheduler = CategoricalScheduler(num_classes=anatomy.num_classes)
    weight = data.class_weight().to(device)

    def loss_on(data: MaskData) -> Callable[[nn.Module, int, torch.Generator], dict[str, Tensor]]:
        def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
            labels, condition = data.batch(fit_config.batch_size, generator, layouts)
            return mask_loss(model, scheduler.process, labels, condition, weight, generator, thin_weight=thin_weight)

        return loss_of

    def sheet(model: nn.Module, path: Path) -> None:
        real, condition = (apart or data).batch(4, step_generator(SHEET_SEED, 0), layouts)
        assert isinstance(condition, MaskCondition)
        mask_sheet(model, scheduler, real, condition, anatomy, path)

    start_from(model, setting.initial, Initial.MASKS)
    fit_layouts(model, data)
    layouts = model.layout
    yield from fit_stage(model, loss_on(data), setting, parallel, device, loss_on(apart) if apart else None, sheet)


def train_slices(
    folder: Path,
    setting: Setting,
    autoencoder_run: Path | None = None,
    teacher_steps: int = 0,
    tissue_run: Path | None = None,
    loose_tissues: bool = False,
) -> Iterator[Step]:
    """Trains stage 2 on a prepared folder, in the latents of a trained autoencoder, by default that of the model to
    start from.

    Writes the autoencoder with its measured latent statistics to `autoencoder` in the run folder. With `teacher_steps`
    the model that the run starts from is its teacher: what that makes in so many steps is learned for fewer, and
    ModelError where it does not know these classes, latents and weights. The slices are told of the tissues of
    `tissue_run`, else of those that the model they start from has; the network that draws these is written to
    `tissue_network`. With `loose_tissues`, or from a model that has learned so, the table's own tissues are smoothed
    (`tissue_rule`): ModelError for a table without such.
    """
    parallel, device = join(setting.device)
    run_dir, fit_config = setting.run_dir, setting.recipe.fit
    network = initial_network(setting.initial, Initial.SLICES, setting.recipe.network)
    autoencoder = autoencoder_beside(autoencoder_run, setting.initial, setting.anatomy).to(device)
    if teacher_steps:
        settle_latents(setting.initial, setting.anatomy, autoencoder)
    run_dir.mkdir(parents=True, exist_ok=True)
    held = validation_folder(folder) if fit_config.validate_every else None
    tissue = tissue_beside(tissue_run, setting.initial, setting.anatomy)
    has_tissues = bool(tissue_ids(setting.anatomy))
    if loose_tissues and not has_tissues:
        raise ModelError(f"no class of the {setting.anatomy.name} table is cut out by HU; leave loose tissues.")
    network["loose_tissues"] = has_tissues and (loose_tissues or network.get("loose_tissues", False))
    network["uneven_by_phase"] = True
    told: dict[str, Any] = {"tissue": tissue, "loose_tissues": network["loose_tissues"]}
    with parallel.first():
        how = (setting.anatomy, autoencoder, TextEncoder())
        # A network that has learned in latents of some mean and deviation goes on in those.
        settled = setting.initial is not None and bool(autoencoder.latent_mean.any())
        data = load_latent_data(
            training_folder(folder),
            *how,
            run_dir / "latents.pt",
            measured=settled,
            workers=setting.workers,
            leave_out=setting.leave_out,
            **told,
        )
        apart = None if held is None else load_latent_data(
            held, *how, run_dir / "latents-validation.pt", measured=True, workers=setting.workers, **told
        )  # fmt: skip
    if parallel.is_main:
        autoencoder.save_pretrained(run_dir / "autoencoder")
        if tissue is not None:
            tissue.save_pretrained(run_dir / Initial.TISSUE.value)
    num_tissues, within = (0, 0) if tissue is None else (tissue.num_tissues, tissue.within)
    of_table = {"num_classes": setting.anatomy.num_classes + num_tissues, "tissues_within": within}
    model = SliceGenerator(tissues=tissue is not None, **of_table, **network)

    def loss_on(data: LatentData) -> Callable[[nn.Module, int, torch.Generator], dict[str, Tensor]]:
        def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
            batch = data.batch(fit_config.batch_size, generator, loose=tissue is not None and within == 0)
            return slice_loss(model, **batch, generator=generator, teacher=teacher, teacher_steps=teacher_steps)

        return loss_of

    def sheet(model: nn.Module, path: Path) -> None:
        slice_sheet(model, autoencoder, (apart or data).batch(6, step_generator(SHEET_SEED, 0)), path)

    left = start_from(model, setting.initial, Initial.SLICES)
    if teacher_steps:
        check_taken(left, setting.initial)
    if model.hu_prior is not None:
        model.hu_prior.fit(data.class_hu, data.phase, data.inhomogeneity)
    data, apart = data.to(device), None if apart is None else apart.to(device)
    teacher = copy.deepcopy(model).to(device).eval().requires_grad_(False) if teacher_steps else None
    yield from fit_stage(model, loss_on(data), setting, parallel, device, loss_on(apart) if apart else None, sheet)


def fit_stage(
    model: nn.Module,
    loss_of: Callable[[nn.Module, int, torch.Generator], dict[str, Tensor]],
    setting: Setting,
    parallel: Parallel,
    device: torch.device,
    loss_apart: Callable[[nn.Module, int, torch.Generator], dict[str, Tensor]] | None,
    sheet: Callable[[nn.Module, Path], None],
) -> Iterator[Step]:
    """Trains on the device; saves the average to `model`, the best validated one to `best`, sheets to `sheets`.

    ModelError where the run was begun with another label table.
    """
    config, run_dir = setting.recipe.fit, setting.run_dir
    model = channels_last(model.to(device)) if device.type == "cuda" else model.to(device)
    ema = copy.deepcopy(model).requires_grad_(False)
    run_dir.mkdir(parents=True, exist_ok=True)
    _keep_table(setting.anatomy, run_dir / FILE_NAME, parallel.is_main)
    validate = None if loss_apart is None else _validation(loss_apart, config, device)
    for step in fit(model, ema, loss_of, config, run_dir, validate, parallel):
        if parallel.is_main:
            if step.best:
                contiguous(ema).save_pretrained(run_dir / "best")
            if step.saved:
                contiguous(ema).save_pretrained(run_dir / "model")
            if setting.sheets and (step.validation is not None or step.number + 1 == config.num_steps):
                (run_dir / "sheets").mkdir(exist_ok=True)
                sheet(ema, run_dir / "sheets" / f"step-{step.number + 1:07d}.png")
        yield step


def _keep_table(anatomy: Anatomy, path: Path, is_main: bool) -> None:
    """Writes the label table of a run; ModelError where one that has a state was begun with another."""
    if has_state(path.parent) and path.exists() and unregistered_anatomy(path) != anatomy:
        raise ModelError(
            f"{path.parent} was begun with another label table; go on with --anatomy {path}, or in another run folder."
        )
    if is_main:
        write_anatomy(anatomy, path)


def _validation(
    loss_of: Callable[[nn.Module, int, torch.Generator], dict[str, Tensor]], config: FitConfig, device: torch.device
) -> Callable[[nn.Module], dict[str, float]]:
    """Mean losses of the same few batches each time: what differs is the network.

    The mean of the total, by which weights are chosen, is geometric: a batch with an odd contour, whose loss is ten
    times that of the others, weighs no more than they do.
    """

    @torch.no_grad()
    def validate(model: nn.Module) -> dict[str, float]:
        model.eval()
        held: dict[str, list[float]] = {}
        for index in range(_VALIDATION_BATCHES):
            with mixed_precision(device, config.bf16):
                losses = loss_of(model, index, step_generator(SHEET_SEED, index))
            for name, value in losses.items():
                held.setdefault(name, []).append(float(value))
        totals = [max(value, _LEAST_LOSS) for value in held["total"]]
        return {name: fmean(values) for name, values in held.items()} | {"total": geometric_mean(totals)}

    return validate
