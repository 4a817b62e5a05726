"""The arms of the downstream benchmark, and the shard folders that their synthetic cases come from.

Sources: `guidegen` (guidegen-shard with the model), `guidegen-fixed` (its first few), `guidegen-complete` (those of
them that show every organ, as the k real cases do), `synthseg` (random texture on its
label maps), `real-masks` (warped label maps of the k real cases through our image stage), `autoencoder` (the CTs of
the k real cases through our autoencoder), `cut` (the k real cases, cut to the field of view of generated ones: what
that alone gives), `guidegen-and-cut` (as many of the one as of the other), `donors` (real patients that the generator
learned from, in place of its cases: what it could give at best).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.downstream_cut import cut_like
from benchmarks.downstream_donors import ORGAN_FILES
from benchmarks.downstream_scores import ORGANS
from benchmarks.downstream_synthseg import random_texture
from benchmarks.nnunet_route import Commands, num_whole, write_cases
from benchmarks.openkbp_split import link_cases
from guidegen_data import HEAD_NECK, Case, GuideGenPipeline, ShardReader
from guidegen_data.case import Draft, centred_affine
from guidegen_data.metrics.consistency import ABSENT_ML
from guidegen_data.metrics.reconstruction import reconstruct
from guidegen_data.sources.prepared import TrainingCase, case_paths, load_case

#: Made of the k real cases of a run; the others of the generator alone, and shared by all runs of a donor setting.
OF_REAL_CASES = {"real-masks", "autoencoder", "cut", "guidegen-and-cut"}
#: No absent organ and no target among the cases of a generator. In OpenKBP absent means that nobody contoured it: the
#: organ shows in the CT, and nnU-Net would learn background. The same holds of the organs under a target volume, whose
#: voxels are the target's in a label map. The k real cases are chosen complete for the same reason, and keep the organs
#: under their targets.
WHAT = ("--sampling", "organs")


@dataclass(frozen=True)
class Arm:
    """What a training draws: `fraction` of its patches from the cases of `source`, the rest from the k real cases.

    `falling`: the share falls evenly to none, from as much as makes it `fraction` on the whole; the last patches, with
    the smallest steps, are real ones.
    """

    source: str | None
    fraction: float
    falling: bool = False


ARMS = {
    "real": Arm(None, 0.0),
    "guidegen-0.25": Arm("guidegen", 0.25),
    "guidegen-0.5": Arm("guidegen", 0.5),
    "guidegen-0.75": Arm("guidegen", 0.75),
    "guidegen-falling": Arm("guidegen", 0.5, falling=True),
    "guidegen-0.5-fixed": Arm("guidegen-fixed", 0.5),
    "guidegen-0.5-complete": Arm("guidegen-complete", 0.5),
    "real-masks": Arm("real-masks", 0.5),
    "synthseg": Arm("synthseg", 0.5),
    "synthseg-falling": Arm("synthseg", 0.5, falling=True),
    "autoencoder": Arm("autoencoder", 0.5),
    "cut": Arm("cut", 0.5),
    "cut-falling": Arm("cut", 0.5, falling=True),
    "guidegen-and-cut-falling": Arm("guidegen-and-cut", 0.5, falling=True),
    "donors": Arm("donors", 0.5),
    "donors-falling": Arm("donors", 0.5, falling=True),
    "synthetic": Arm("guidegen", 1.0),
}


@dataclass(frozen=True)
class Sizes:
    """Cases of a source: `num_cases` where each is to be seen about once, `num_fixed` where few are repeated."""

    num_cases: int = 200
    num_fixed: int = 20

    def of(self, source: str, k: int) -> int:
        """How many cases a source has."""
        different = {"guidegen-fixed": self.num_fixed, "autoencoder": k, "guidegen-and-cut": 2 * self.num_cases}
        return different.get(source, self.num_cases)


class Sources:
    """Shard folders of one generator and, for those made of real cases, one k and seed; what is whole is kept.

    `donors` gives the prepared cases of the donors; called only for the arm that needs them, and None where a generator
    has none.
    """

    def __init__(
        self,
        folder: Path,
        real_folder: Path,
        real: list[Path],
        model: Path,
        sizes: Sizes,
        donors: Callable[[], list[Path]] | None = None,
    ) -> None:
        self.folder, self.real_folder, self.real = folder, real_folder, real
        self.model, self.sizes, self.donors = model, sizes, donors

    def shards(self, source: str) -> Path:
        """The whole shard folder of a source, made where it is not there yet."""
        num_cases = self._num_cases(source)
        folder = (self.real_folder if source in OF_REAL_CASES else self.folder) / source
        if source == "guidegen":
            # Always, since it refuses a folder that another model filled.
            words = ["--n", num_cases, "--model", self.model, "--out", folder, "--shard-size", 16, *WHAT]
            Commands().guidegen("generate", "shard", *words)
            return folder
        self._refuse_other_model(folder)
        if num_whole(folder) != num_cases:
            write_cases(self._maker(source), num_cases, folder)
        return folder

    def _num_cases(self, source: str) -> int:
        if source == "guidegen-complete":
            return len(complete_cases(self.shards("guidegen")))
        return self.sizes.of(source, len(self.real))

    def fingerprint(self) -> str:
        """What tells this generator from any other."""
        from guidegen_data.models.folder import fingerprint_of, model_folder

        return str(fingerprint_of(model_folder(self.model)))

    def _refuse_other_model(self, folder: Path) -> None:
        """SystemExit for a folder of another model, whole or begun; a new one is noted as of this model."""
        note, ours = folder / "model.json", self.fingerprint()
        if note.exists() and json.loads(note.read_text()) != ours:
            sys.exit(f"{folder} was begun with another model; give another --work.")
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(ours))

    def _maker(self, source: str) -> Callable[[int], Case]:
        if source == "guidegen-and-cut":  # in turns, each of the other's field of view
            ours, cut = (ShardReader(self.shards(kind)) for kind in ("guidegen", "cut"))
            return lambda number: (ours if number % 2 == 0 else cut)[number // 2]
        if source in OF_REAL_CASES:
            prepared = self._prepared(source)
            if source == "cut":
                shown = ShardReader(self.shards("guidegen"))
                whole = [as_it_is(load_case(path), number) for number, path in enumerate(prepared)]
                return lambda number: cut_like(whole[number % len(whole)], shown[number])
            pipe = _loaded(str(self.model))
            make = from_mask if source == "real-masks" else through_autoencoder
            return lambda number: make(pipe, load_case(prepared[number]), number)
        if source == "donors":
            return self._donor_maker()
        generated = self.shards("guidegen")
        reader = ShardReader(generated)
        if source == "guidegen-complete":
            numbers = complete_cases(generated)
            return lambda number: reader[numbers[number]]
        if source == "synthseg":
            return lambda number: random_texture(reader[number], number)
        return lambda number: reader[number]

    def _donor_maker(self) -> Callable[[int], Case]:
        if self.donors is None:
            sys.exit("the arm 'donors' is one of the donor setting: a strict generator has no donors.")
        paths = self.donors()
        if len(paths) < self.sizes.num_cases:
            sys.exit(f"there are {len(paths)} donors, not {self.sizes.num_cases}; give a smaller --num-synthetic.")
        return lambda number: as_it_is(load_case(paths[number]), number)

    def _prepared(self, source: str) -> list[Path]:
        """Training cases of the k real ones: their label maps warped about evenly often, or each as it is.

        Without target volumes, which would take the voxels of the organs under them from their labels.
        """
        num_cases = len(self.real) if source == "cut" else self.sizes.of(source, len(self.real))
        copies = -(-num_cases // len(self.real)) - 1
        return prepare_real_cases(self.real, self.real_folder / f"{source}-prepared", copies, ORGAN_FILES)


def facts(folder: Path) -> dict[str, Any]:
    """What is in a shard folder: cases, attempts that were rejected, and of each organ in how many cases it shows."""
    volumes = _volumes(folder)
    return {
        "num_cases": len(volumes),
        "num_rejected": len((folder / "rejects.jsonl").read_text().splitlines()),
        "num_showing": {organ: sum(held[organ] >= ABSENT_ML for held in volumes) for organ in ORGANS},
        "num_complete": sum(all(held[organ] >= ABSENT_ML for organ in ORGANS) for held in volumes),
    }


def _volumes(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line)["volumes_ml"] for line in (folder / "manifest.jsonl").read_text().splitlines()]


def complete_cases(folder: Path) -> list[int]:
    """Numbers of the cases of a shard folder in which no organ counts as absent. SystemExit when there is none."""
    volumes = _volumes(folder)
    numbers = [n for n, held in enumerate(volumes) if all(held[organ] >= ABSENT_ML for organ in ORGANS)]
    if not numbers:
        sys.exit(f"none of the {len(volumes)} cases of {folder} shows every organ; generate more.")
    return numbers


def prepare_real_cases(real: list[Path], out: Path, copies: int, files: Sequence[str] = ("*",)) -> list[Path]:
    """Prepared cases of CTs NAME_ct.nii.gz with those `files` of a patient: each as it is and `copies` warped ones."""
    link_cases(real, out / "source" / "train", files)
    words = [out / "source", out / "cases", "--anatomy", "head-neck", "--augment", copies]
    Commands().guidegen("prepare", "prepare", "nifti", *words)
    paths = case_paths(out / "cases" / "train")
    # A patient's copies follow each other; taken in turns, any first part of the list has all patients in it.
    each = copies + 1
    return [paths[patient * each + copy] for copy in range(each) for patient in range(len(real))]


@lru_cache(maxsize=1)
def _loaded(model: str) -> GuideGenPipeline:
    return GuideGenPipeline.from_pretrained(model)


def from_mask(pipe: Any, prepared: TrainingCase, number: int) -> Case:
    """A case whose label map is the prepared one and whose CT our image stage drew for it, from seed `number`."""
    generator = torch.Generator().manual_seed(number)
    draft = Draft(f"case-{number}", prepared.label_map, _affine(), "", prepared.findings, {"seed": number}, generator)
    with torch.inference_mode():
        return pipe.complete([draft])[0]


def as_it_is(prepared: TrainingCase, number: int) -> Case:
    """A case of a real CT and its label map."""
    assert prepared.ct_hu is not None
    ct_hu = np.rint(prepared.ct_hu).astype(np.int16)
    return Case(f"case-{number}", ct_hu, prepared.label_map, _affine(), "", prepared.findings, {})


def through_autoencoder(pipe: Any, prepared: TrainingCase, number: int) -> Case:
    """A case whose CT went into our autoencoder's latents and back."""
    assert prepared.ct_hu is not None
    return as_it_is(replace(prepared, ct_hu=reconstruct(pipe.autoencoder, prepared.ct_hu)), number)


def _affine() -> np.ndarray:
    return centred_affine(HEAD_NECK.shape, HEAD_NECK.spacing_mm)


def arms_named(names: list[str]) -> dict[str, Arm]:
    """Arms by their names, `real` always among them; SystemExit for a name that is none."""
    if unknown := sorted(set(names) - set(ARMS)):
        sys.exit(f"there is no arm {unknown[0]!r}; choose of {', '.join(ARMS)}.")
    return {name: replace(arm) for name, arm in ARMS.items() if name in names or name == "real"}
