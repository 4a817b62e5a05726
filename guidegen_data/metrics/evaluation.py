"""A model beside real cases: what is generated for the findings of real cases, measured next to these cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.anatomy_files import FILE_NAME, register, unregistered_anatomy, vocabulary
from guidegen_data.case import Case
from guidegen_data.errors import SourceError
from guidegen_data.lesion_contrast import attenuation
from guidegen_data.lesions import FoundLesion, find_lesions
from guidegen_data.metrics.consistency import judge_lesion
from guidegen_data.metrics.frechet import frechet_distance, slice_features
from guidegen_data.metrics.plausibility import Population, mean_dice, population, summary
from guidegen_data.metrics.reconstruction import reconstruct, window_errors_hu
from guidegen_data.metrics.texture import medians, organ_textures
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.findings import Lesion
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.describe import describe
from guidegen_data.sources.prepared import case_paths, load_case, training_folder, validation_folder

#: Label maps are compared on a grid of at least this many mm for Dice.
_DICE_MM = 6.0
_MAX_TRAINING = 200

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class RealCases:
    """Cases to compare with, one a patient: those of the split, and the label maps of training cases."""

    split: str
    cases: list[TrainingCase]
    training: list[TrainingCase]


def check_vocabulary(folder: Path, anatomy: Anatomy) -> None:
    """SourceError when a prepared folder has other classes or organs than the anatomy."""
    path = folder / FILE_NAME
    if not path.exists():
        return
    # Read as it is: sizes and places measured on these patients would take the place of those that the model was made
    # with. Only a table of another name is made known, to the findings of its cases.
    table = unregistered_anatomy(path)
    if vocabulary(table) != vocabulary(anatomy):
        raise SourceError(f"{folder} was prepared with other classes or organs than the model's; prepare it again.")
    if table.name != anatomy.name:
        register(table, str(path))


def real_cases(folder: Path, anatomy: Anatomy, num: int) -> RealCases:
    """Up to `num` cases with CTs, spread over the validation cases of a prepared folder (the training ones if none).

    SourceError when the folder has other classes or another grid than the anatomy, or fewer than two cases with a CT.
    """
    check_vocabulary(folder, anatomy)
    held = validation_folder(folder)
    paths = case_paths(held or training_folder(folder))
    cases: list[TrainingCase] = []
    seen: set[str] = set()
    for path in _spread(paths, 4 * num):
        case = load_case(path)
        if case.ct_hu is not None and case.base not in seen and len(cases) < 4 * num:
            cases.append(case)
            seen.add(case.base)
    cases = _spread(cases, num)
    if len(cases) < 2:
        raise SourceError(f"{folder} needs two patients with a CT to compare with, got {len(cases)}.")
    if cases[0].label_map.shape != anatomy.shape:
        raise SourceError(f"the cases of {folder} must have the model's shape {anatomy.shape}; prepare them for it.")
    known = case_paths(training_folder(folder))
    training = [replace(load_case(path), ct_hu=None) for path in _spread(known, _MAX_TRAINING)]
    return RealCases("validation" if held else "training", cases, training)


def _spread(items: Sequence[_Item], num: int) -> list[_Item]:
    """Up to `num` items, evenly spread from the first to the last."""
    return [items[i] for i in dict.fromkeys(np.linspace(0, len(items) - 1, num).astype(int).tolist())] if items else []


def evaluate(
    pipe: GuideGenPipeline, real: RealCases, seed: int, done: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Figures of a model, JSON ready: `figures_of` what `cases_for` generates."""
    return {**figures_of(pipe, real, cases_for(pipe, real, seed, done)), "seed": seed}


def cases_for(
    pipe: GuideGenPipeline, real: RealCases, seed: int, done: Callable[[], object] = lambda: None
) -> list[Case]:
    """One case for the findings of each real one, first attempts all; case i depends on (seed, i) alone.

    `done` is called after each.
    """
    made = []
    for i, case in enumerate(real.cases):
        made += pipe.generate([case.findings], [case.findings.prompt()], [f"case-{i}"], [seed * 100_000 + i])
        done()
    return made


def figures_of(pipe: GuideGenPipeline, real: RealCases, made: Sequence[Case]) -> dict[str, Any]:
    """Figures of generated cases beside the real ones whose findings they were made for, JSON ready."""
    anatomy, spacing = pipe.anatomy, pipe.anatomy.spacing_mm
    maps = [population([c.label_map for c in cases], anatomy, spacing) for cases in (real.cases, made)]
    return {
        "model_sha256": pipe.fingerprint,
        "num_cases": len(made),
        "compared_with": real.split,
        "autoencoder_mae_hu": _autoencoder(pipe, real.cases),
        "masks": summary(*maps),
        "masks_of_other_patients": _other_patients(real, maps[0], anatomy),
        "consistency": consistency(made, anatomy),
        "hu": organ_hu(real.cases, made, anatomy),
        "fidelity": fidelity(pipe, real.cases, made),
        "nearest_training_dice": nearest_training(real, made, anatomy),
    }


def _other_patients(real: RealCases, cases: Population, anatomy: Anatomy) -> dict[str, float] | None:
    """What `summary` says of as many training maps, one a patient: how far real patients are from each other. None
    where there are no others."""
    own = {c.base for c in real.cases}
    others = list({c.base: c.label_map for c in real.training if c.base not in own}.values())
    if not others:
        return None
    return summary(cases, population(_spread(others, len(real.cases)), anatomy, anatomy.spacing_mm))


def _autoencoder(pipe: GuideGenPipeline, cases: Sequence[TrainingCase]) -> dict[str, float]:
    errors = [window_errors_hu(c.ct_hu, reconstruct(pipe.autoencoder, c.ct_hu)) for c in cases if c.ct_hu is not None]
    return {name: round(float(np.mean([e[name] for e in errors])), 2) for name in errors[0]}


def consistency(made: Sequence[Case], anatomy: Anatomy) -> dict[str, Any]:
    """Of lesions, organ statuses and habitus that were asked for: shares found on the generated cases, with numbers.

    Statuses and habitus are measured as those of real cases are; a status without usual sizes is left out.
    """
    lesions: list[str] = []
    organs: list[bool] = []
    habitus: list[bool] = []
    words: list[bool] = []
    for case in made:
        found = find_lesions(case.label_map, anatomy, anatomy.spacing_mm)
        lesions += [judge_lesion(lesion, found) for lesion in case.findings.lesions]
        seen = describe(case.ct_hu, case.label_map, anatomy, {"region": case.findings.region})
        graded = {o: s for o, s in case.findings.organs.items() if s == "absent" or o in anatomy.size_ml}
        organs += [seen.organs.get(organ) == status for organ, status in graded.items()]
        words += [_shows(x, found, case, anatomy) for x in case.findings.lesions if x.attenuation]
        habitus += [seen.habitus == case.findings.habitus] if case.findings.habitus else []
    return {
        "lesions": {"N": len(lesions), **{k: share_of([x == k for x in lesions]) for k in ("acc", "err", "mis")}},
        "attenuation": {"N": len(words), "found": share_of(words)},
        "organ_statuses": {"N": len(organs), "found": share_of(organs)},
        "habitus": {"N": len(habitus), "found": share_of(habitus)},
    }


def _shows(lesion: Lesion, found: Sequence[FoundLesion], case: Case, anatomy: Anatomy) -> bool:
    """Whether a lesion at the asked site has the asked attenuation."""
    there = [f for f in found if (f.organ, f.site) == (lesion.organ, lesion.site)]
    return any(attenuation(f, case.ct_hu, case.label_map, anatomy) == lesion.attenuation for f in there)


def share_of(hits: Sequence[bool]) -> float | None:
    """The share of hits to three digits; None of nothing."""
    return round(float(np.mean(hits)), 3) if hits else None


def organ_hu(real: Sequence[TrainingCase], made: Sequence[Case], anatomy: Anatomy) -> dict[str, dict[str, float]]:
    """Median HU of each class that both show, real and generated, and the generated one's difference."""
    textures = [
        [organ_textures(c.ct_hu, c.label_map, anatomy) for c in cases if c.ct_hu is not None] for cases in (real, made)
    ]
    rows = {}
    for c in anatomy.classes[1:]:
        held, shown = (medians(t, c.name) for t in textures)
        if held and shown:
            apart = round(shown["median_hu"] - held["median_hu"], 1)
            rows[c.name] = {"real": held["median_hu"], "generated": shown["median_hu"], "difference": apart}
    return rows


def fidelity(pipe: GuideGenPipeline, real: Sequence[TrainingCase], made: Sequence[Case]) -> dict[str, float | None]:
    """Slice Frechet distances in the autoencoder's features: generated to real, and real to real as the floor.

    The real patients are halved, so that both figures compare as many patients: half against the other half, and half
    against what was generated for the findings of the other half (mean of both ways).
    """
    features = [[slice_features(pipe.autoencoder, c.ct_hu) for c in cases] for cases in (real, made)]
    halves = [[np.concatenate(f[k::2]) for k in (0, 1)] for f in features]
    if min(len(h) for pair in halves for h in pair) < 2:  # nothing that looks like a body
        return {"generated_to_real": None, "real_to_real": None}
    across = [frechet_distance(halves[0][k], halves[1][1 - k]) for k in (0, 1)]
    return {
        "generated_to_real": round(float(np.mean(across)), 3),
        "real_to_real": round(frechet_distance(*halves[0]), 3),
    }


def nearest_training(real: RealCases, made: Sequence[Case], anatomy: Anatomy) -> dict[str, float]:
    """Median Dice to the nearest training map, of generated maps and of real ones of other patients."""
    step = tuple(max(1, round(_DICE_MM / mm)) for mm in anatomy.spacing_mm)
    corner = tuple(slice(None, None, k) for k in step)
    known = [(c.base, c.label_map[corner]) for c in real.training]

    def nearest(label_map: np.ndarray, own: str) -> float:
        others = [m for base, m in known if base != own]
        return max((mean_dice(label_map[corner], m, anatomy.num_classes) for m in others), default=0.0)

    return {
        "generated": round(float(np.median([nearest(c.label_map, "") for c in made])), 3),
        "real": round(float(np.median([nearest(c.label_map, c.base) for c in real.cases])), 3),
        "num_training_maps": len(known),
    }


def evaluation_table(figures: dict[str, Any]) -> str:
    """The figures as a markdown table: what, generated, beside it what real cases or a perfect model have."""
    errors, masks, found = figures["autoencoder_mae_hu"], figures["masks"], figures["consistency"]
    lesions, organs, habitus = found["lesions"], found["organ_statuses"], found["habitus"]
    others = figures.get("masks_of_other_patients") or dict.fromkeys(masks, 0)
    words, hu, near = found["attenuation"], figures["hu"], figures["nearest_training_dice"]
    rows = [(f"autoencoder: mean absolute error, {k} window, HU", v, 0) for k, v in errors.items()]
    rows += [
        *(
            (f"masks: error of {what}, mean abs log2 over classes", masks[key], others[key])
            for what, key in (("volume", "volume_log2_error"), ("border roughness", "roughness_log2_error"))
        ),
        ("masks: pieces a class, generated / real", masks["pieces_ratio"], 1),
        ("masks: classes that appear", masks["classes_present"], 1),
        (f"consistency: lesions at the asked site (N = {lesions['N']})", lesions["acc"], 1),
        (f"consistency: lesions elsewhere / missing (N = {lesions['N']})", f"{lesions['err']} / {lesions['mis']}", 0),
        (f"consistency: attenuation of lesions as asked (N = {words['N']})", words["found"], 1),
        (f"consistency: organ statuses as asked (N = {organs['N']})", organs["found"], 1),
        (f"consistency: habitus as asked (N = {habitus['N']})", habitus["found"], 1),
        *((f"HU: median of {name}", row["generated"], row["real"]) for name, row in hu.items()),
        (
            "fidelity: slice Frechet distance in this model's own autoencoder, beside real to real",
            figures["fidelity"]["generated_to_real"], figures["fidelity"]["real_to_real"],
        ),
        ("copying: Dice to the nearest training map, median", near["generated"], near["real"]),
    ]  # fmt: skip
    head = f"| {figures['num_cases']} cases beside {figures['compared_with']} cases | generated | real or best |"
    return "\n".join([head, "|---|---|---|", *(f"| {a} | {_shown(b)} | {_shown(c)} |" for a, b, c in rows)])


def _shown(value: Any) -> str:
    return "not asked" if value is None else str(value).replace("None", "not asked")
