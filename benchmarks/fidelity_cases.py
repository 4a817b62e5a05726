"""The cases that fidelity and memorisation compare: real ones, generated ones, and CTs made from real label maps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import SourceError
from guidegen_data.metrics.evaluation import check_vocabulary
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import case_paths, load_case, save_case, training_folder, validation_folder


def one_a_patient_first(patients: list[str], num: int) -> list[int]:
    """Up to `num` numbers of cases, each patient's first case before any patient's second, spread over the patients."""
    rounds: list[tuple[int, int]] = []
    seen: dict[str, int] = {}
    for number, patient in enumerate(patients):
        rounds.append((seen.get(patient, 0), number))
        seen[patient] = seen.get(patient, 0) + 1
    chosen: list[int] = []
    for k in range(max(seen.values(), default=0)):
        here = [number for turn, number in rounds if turn == k]
        left = min(num - len(chosen), len(here))
        chosen += [here[i] for i in np.linspace(0, len(here) - 1, left).astype(int)] if left > 0 else []
    return sorted(chosen)


@dataclass(frozen=True)
class RealSet:
    """Real cases with CTs; `split` says whether the model may have been trained on them."""

    split: str
    cases: list[TrainingCase]

    @property
    def patients(self) -> list[str]:
        return [c.base for c in self.cases]


def real_set(folder: Path, anatomy: Anatomy, num: int) -> RealSet:
    """Up to `num` cases with CTs of the validation patients of a prepared folder (the training ones if it has none).

    SourceError when the folder does not fit the anatomy or holds fewer than two patients with a CT.
    """
    check_vocabulary(folder, anatomy)
    held = validation_folder(folder)
    loaded = tqdm(case_paths(held or training_folder(folder)), desc="reading", disable=None)
    cases = [c for c in map(load_case, loaded) if c.ct_hu is not None]
    cases = [cases[i] for i in one_a_patient_first([c.base for c in cases], num)]
    if len({c.base for c in cases}) < 2:
        raise SourceError(f"{folder} needs two patients with a CT to compare with; prepare more.")
    if cases[0].label_map.shape != anatomy.shape:
        raise SourceError(f"the cases of {folder} must have the model's shape {anatomy.shape}; prepare them for it.")
    return RealSet("validation" if held else "training", cases)


def generated(
    pipe: GuideGenPipeline, real: list[TrainingCase], seed: int, folder: Path, image_stage: bool = False
) -> list[TrainingCase]:
    """One case for the findings of each real one, both stages; with `image_stage` a CT for its own label map instead.

    Case i depends on (model, seed, i, real case) alone and stays in `folder`, so that a run goes on where it ended.
    First attempts all: nothing is judged or drawn again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    what = "CTs of real label maps" if image_stage else "generating"
    for i, case in enumerate(tqdm(real, desc=what, disable=None)):
        key = json.dumps([pipe.fingerprint, seed, i, image_stage, case.findings.to_dict()], sort_keys=True).encode()
        digest = hashlib.blake2b(key + case.label_map.tobytes(), digest_size=12).hexdigest()
        path = folder / f"made-{digest}.npz"
        if not path.exists():
            save_case(path, (_ct_of_labels if image_stage else _both_stages)(pipe, case, seed * 100_000 + i))
        made.append(load_case(path))
    return made


def _both_stages(pipe: GuideGenPipeline, case: TrainingCase, seed: int) -> TrainingCase:
    drawn = pipe.generate([case.findings], [case.findings.prompt()], ["case"], [seed])[0]
    return TrainingCase(drawn.label_map, drawn.ct_hu.astype(np.float32), case.findings, case.base)


def _ct_of_labels(pipe: GuideGenPipeline, case: TrainingCase, seed: int) -> TrainingCase:
    tokens = pipe.encode([case.findings.prompt()])
    labels = torch.from_numpy(case.label_map)[None].to(tokens.device)
    generators = [torch.Generator().manual_seed(seed)]
    hu = pipe.organ_hu([case.findings.phase], generators)
    ct = pipe.sample_cts(labels, tokens, generators, organ_hu=hu, findings=[case.findings])[0]
    return replace(case, ct_hu=ct.cpu().numpy().astype(np.float32))


def rendered(label_map: np.ndarray, num_classes: int) -> np.ndarray:
    """A label map (X, Y, Z) as float32 HU for networks that see CTs: background -1000, classes 1..K-1 evenly spaced
    from -400 to 800 in the order of the table."""
    values = np.concatenate([[-1000.0], np.linspace(-400, 800, max(num_classes - 1, 1))])
    return values.astype(np.float32)[label_map]


def images(cases: list[TrainingCase]) -> list[np.ndarray]:
    """CTs (X, Y, Z) float32 in HU."""
    return [np.asarray(c.ct_hu, np.float32) for c in cases]
