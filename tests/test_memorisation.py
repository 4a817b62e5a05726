"""Copies of training cases are found, new people are not taken for copies."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from feature_networks import tissue_shares

from benchmarks import memorisation, record
from benchmarks.fidelity_cases import one_a_patient_first
from benchmarks.fidelity_rows import memorisation as rows
from benchmarks.fidelity_ruler import Store
from benchmarks.memorisation import centred, footprint, measure, verdicts
from benchmarks.memorisation_sheet import closest_pairs_sheet
from guidegen_data.anatomy import TORSO
from guidegen_data.case import Case, centred_affine
from guidegen_data.errors import SourceError
from guidegen_data.reports.findings import Findings
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import save_case

SMALL = replace(TORSO, shape=(32, 32, 32), spacing_mm=(12.0, 12.0, 12.0))


def person(seed: int, name: str = "", shift: int = 0, noise: int = 0) -> TrainingCase:
    """A body with a liver, a spleen and a heart of their own places and sizes; `noise` changes what a copy may."""
    rng = np.random.default_rng(seed)
    xyz = np.stack(np.meshgrid(*[np.arange(32.0)] * 3, indexing="ij"))
    labels, ct = np.zeros((32, 32, 32), np.uint8), np.full((32, 32, 32), -1000.0, np.float32)
    ct[((xyz[:2] - 15.5) ** 2).sum(axis=0) < rng.uniform(90, 180)] = -80
    for organ in ("liver", "spleen", "heart"):
        centre = np.array([10 + shift, 15, 15]) + rng.uniform(-4, 10, 3)
        inside = (((xyz - centre[:, None, None, None]) / rng.uniform(2.5, 6, (3, 1, 1, 1))) ** 2).sum(axis=0) < 1
        labels[inside], ct[inside] = SMALL.ids[organ], rng.uniform(0, 150)
    ct += np.random.default_rng(noise).normal(0, 10, ct.shape).astype(np.float32)
    return TrainingCase(labels, ct.clip(-1024, 3000), Findings("abdomen"), name or f"p{seed}")


@pytest.fixture(scope="module")
def training() -> list[TrainingCase]:
    """Sixty people, each of the first ten with a copy that another noise lies on."""
    return [person(k) for k in range(60)] + [person(k, noise=k + 1) for k in range(10)]


def prints(cases, tmp_path):
    return [footprint(case, SMALL, tissue_shares(), Store(tmp_path)) for case in cases]


def test_a_generator_that_returns_training_cases_is_caught_by_every_measure(training, tmp_path) -> None:
    figures, _ = measure(prints([person(k, noise=99) for k in range(12)], tmp_path), prints(training, tmp_path), [], 21)
    assert set(figures) == {"mask_dice", "image_correlation", "image_features"}
    for name, found in figures.items():
        assert found["share_nearer"] == 1, name
        assert found["control_warped_copies_found"] == 1, name
        assert found["control_held_out_patients_found"] is None, name


def test_a_generator_of_new_people_is_not_caught(training, tmp_path) -> None:
    made, held = (prints([person(start + k) for k in range(40)], tmp_path) for start in (1000, 2000))
    figures, _ = measure(made, prints(training, tmp_path), held, 21)
    for name, found in figures.items():
        assert found["control_held_out_patients_found"] <= 0.05, name
        assert found["num_held_out"] == 40
        assert found["share_nearer"] <= 0.05, name
        assert found["nearest_generated"]["median"] < found["threshold"], name


def test_a_copy_that_was_moved_is_still_caught(training, tmp_path) -> None:
    moved = [person(k, shift=2) for k in range(12)]
    figures, _ = measure(prints(moved, tmp_path), prints(training, tmp_path), [], 21)
    assert figures["mask_dice"]["share_nearer"] == 1


def test_copies_of_one_patient_are_no_neighbours_of_each_other() -> None:
    real = np.array([[1.0, 0.9, 0.2, 0.3], [0.9, 1.0, 0.1, 0.4], [0.2, 0.1, 1.0, 0.8], [0.3, 0.4, 0.8, 1.0]])
    found = verdicts(np.array([[0.35, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9]]), real, real[:1], ["a", "a", "b", "b"])
    assert found["nearest_other_patient"]["median"] == pytest.approx(0.35)
    assert 0.35 < found["threshold"] <= 0.4
    assert (found["num_nearer"], found["share_nearer"]) == (1, 0.5)
    assert found["control_warped_copies_found"] == found["control_held_out_patients_found"] == 1
    with pytest.raises(SourceError, match="of one patient"):
        verdicts(real[:1], real, real[:0], ["a"] * 4)


def test_training_cases_without_a_ct_take_part_with_their_masks_alone(training, tmp_path) -> None:
    bare = [replace(c, ct_hu=None) for c in training[:5]]
    figures, near = measure(prints([person(3, noise=7)], tmp_path), prints([*bare, *training[5:]], tmp_path), [], 21)
    assert int(near["mask_dice"][0].argmax()) == 3
    assert np.isnan(near["image_correlation"][0, :5]).all()
    assert figures["image_correlation"]["num_training"] == len(training) - 5


def test_what_is_labelled_comes_to_the_centre() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:5, 15:18, 9:12] = 1
    where = np.argwhere(centred(labels, labels, 0))
    assert len(where) == 27
    assert np.abs(where.mean(axis=0) - 10).max() <= 0.5


def test_every_patient_has_a_turn_before_any_has_a_second() -> None:
    patients = ["a", "a", "a", "b", "c", "c"]
    assert one_a_patient_first(patients, 3) == [0, 3, 4]
    assert one_a_patient_first(patients, 5) == [0, 1, 3, 4, 5]
    assert one_a_patient_first(patients, 99) == [0, 1, 2, 3, 4, 5]
    assert one_a_patient_first([f"p{k}" for k in range(9)], 2) == [0, 8]


def test_the_sheet_draws_the_closest_pairs_of_each_measure(training) -> None:
    table = np.zeros((2, 3))
    table[1, 2] = 1
    read: list[int] = []
    sheet = closest_pairs_sheet(
        training[:2],
        lambda j: read.append(j) or training[j],
        {"mask_dice": table, "other": table[:, ::-1]},
        SMALL,
        num=1,
    )
    assert read == [2, 0]
    assert sheet.width > 6 * 200
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 20


def test_the_command_writes_figures_and_sheet(training, tmp_path, monkeypatch) -> None:
    prepared, affine = tmp_path / "prepared", centred_affine(SMALL.shape, SMALL.spacing_mm)
    prepared.mkdir()
    for k, case in enumerate(training[:12]):
        save_case(prepared / f"case-{k:06d}.npz", case)
    calls: list[int] = []

    def copy(findings, reports, keys, seeds) -> list[Case]:
        calls.append(seeds[0])
        ct = np.rint(training[2].ct_hu).astype(np.int16)
        return [Case(keys[0], ct, training[2].label_map, affine, "", findings[0])]

    pipe = SimpleNamespace(generate=copy, anatomy=SMALL, fingerprint="copier")
    monkeypatch.setattr(memorisation.GuideGenPipeline, "from_pretrained", lambda _: pipe)
    monkeypatch.setattr(memorisation, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    features = ["--features", "feature_networks:tissue_shares", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["memorisation", str(prepared), "--num", "3", *features])
    memorisation.main()
    figures = json.loads((tmp_path / "memorisation.json").read_text())["figures"]
    assert (figures["num_cases"], figures["num_training_patients"]) == (3, 12)
    assert all(row["share_nearer"] == 1 for row in figures["by_measure"].values())
    assert figures["features"]["name"] == "tissue shares"
    assert [figure for _, figure in rows(figures)] == ["3 of 3"] * 3
    held = {name: row | {"control_held_out_patients_found": 0.02} for name, row in figures["by_measure"].items()}
    assert rows(figures | {"by_measure": held})[0][1] == "3 of 3 (held-out patients 2 %)"
    assert (tmp_path / "memorisation.png").stat().st_size > 1000
    memorisation.main()
    assert len(calls) == 3  # the second run found its cases where the first had left them
