"""Distances between real and generated cases: known ones, their floors, and networks of one's own."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from feature_networks import tissue_shares

from benchmarks import fidelity, record
from benchmarks.features import (
    FeatureNetwork,
    autoencoder_network,
    network,
    perceptual,
    slice_maps,
    vectors,
    volume_maps,
)
from benchmarks.fidelity import PAPER, frechet_beside_floor, halves
from benchmarks.fidelity_cases import rendered
from benchmarks.fidelity_pairs import apart
from benchmarks.fidelity_rows import fidelity as rows
from benchmarks.fidelity_ruler import Ruler, Store
from guidegen_data.anatomy import TORSO
from guidegen_data.case import Case, centred_affine
from guidegen_data.errors import SourceError
from guidegen_data.metrics.frechet import frechet_distance, kernel_distance, principal_axes
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.folder import model_folder
from guidegen_data.reports.findings import Findings
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import save_case

SMALL = replace(TORSO, shape=(32, 32, 32), spacing_mm=(12.0, 12.0, 12.0))
PATIENTS = [f"p{k}" for k in range(24)]


def samples(seed: int, shift: float = 0.0, scale: float = 1.0, num: int = 24, each: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [shift + scale * rng.standard_normal((each, 6)) for _ in range(num)]


def person(seed: int) -> TrainingCase:
    rng = np.random.default_rng(seed)
    xyz = np.stack(np.meshgrid(*[np.arange(32.0) - 15.5] * 3, indexing="ij"))
    labels, ct = np.zeros((32, 32, 32), np.uint8), np.full((32, 32, 32), -1000.0, np.float32)
    ct[(xyz[:2] ** 2).sum(axis=0) < rng.uniform(120, 180)] = -80
    inside = ((xyz / rng.uniform(3, 8, (3, 1, 1, 1))) ** 2).sum(axis=0) < 1
    labels[inside], ct[inside] = SMALL.ids["liver"], 60
    return TrainingCase(labels, ct, Findings("abdomen"), f"p{seed}")


def test_identical_samples_are_at_distance_zero_and_shifted_gaussians_at_their_shift() -> None:
    a = np.concatenate(samples(0, num=500))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, a + np.array([3, 0, 0, 4, 0, 0])) == pytest.approx(25)
    wide = np.concatenate(samples(1, scale=3, num=40000))
    assert frechet_distance(np.concatenate(samples(2, num=40000)), wide) == pytest.approx(6 * (3 - 1) ** 2, rel=0.05)


def test_the_principal_axes_carry_the_variance_they_say() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 4)) * [5, 1, 1, 1] + [7, 0, 0, 0]
    mean, axes, share = principal_axes(x, 1)
    assert mean[0] == pytest.approx(7, abs=0.3)
    assert abs(axes[0, 0]) == pytest.approx(1, abs=0.01)
    assert share == pytest.approx(25 / 28, abs=0.02)
    assert principal_axes(x[:3], 10)[1].shape == (4, 3)


def test_the_kernel_distance_tells_other_distributions_and_accepts_the_same() -> None:
    rng = np.random.default_rng(1)
    same = [kernel_distance(samples(2 * k), samples(2 * k + 1), PATIENTS, rng, 400) for k in range(100)]
    assert sum(s.p_value < 0.05 for s in same) <= 11  # 5 are expected; 12 or more come once in 200 times
    assert 35 <= sum(s.p_value < 0.5 for s in same) <= 65
    assert abs(np.mean([s.value for s in same])) < 0.006
    other = kernel_distance(samples(0), samples(1, shift=1.5), PATIENTS, rng)
    assert other.value > 3 * other.level_95
    assert other.p_value < 0.01
    echoed = kernel_distance(samples(0), samples(0), PATIENTS, rng)
    assert echoed.value == pytest.approx(0, abs=1e-12)
    assert echoed.p_value == pytest.approx(1)


def test_the_kernel_distance_is_the_u_statistic_written_out() -> None:
    real, made = samples(0, num=5), samples(1, shift=1, num=5)
    found = kernel_distance(real, made, PATIENTS[:5], np.random.default_rng(0))
    x, y = np.concatenate(real), np.concatenate(made)
    spread = np.concatenate([x, y]).std(axis=0)
    x, y = x / spread, y / spread
    both = np.concatenate([x, y])
    width = np.median([((both[i] - both[j]) ** 2).sum() for i in range(10) for j in range(i)])

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return np.exp(-((a - b) ** 2).sum() / width)

    terms = [
        k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i in range(5) for j in range(5) if i != j
    ]
    assert found.value == pytest.approx(np.mean(terms))


def test_too_few_patients_have_no_kernel_distance() -> None:
    with pytest.raises(ValueError, match="four groups"):
        kernel_distance(samples(0, num=6), samples(1, num=6), ["a", "b", "c"] * 2, np.random.default_rng(0))


def test_no_patient_is_on_both_sides_of_a_floor_and_both_sides_hold_as_many() -> None:
    patients = ["a", "a", "a", "b", "c", "c", "d", "e", "e"]
    splits = list(halves(patients, 3, 40))
    assert len(splits) == 40
    for a, b in splits:
        assert len(a) == len(b) > 0
        assert not {patients[i] for i in a} & {patients[i] for i in b}
    assert len({tuple(a) for a, _ in splits}) > 5


def test_an_echo_is_at_its_floor_and_a_shifted_generator_above_it() -> None:
    real = samples(0, each=4)
    echo = frechet_beside_floor(real, real, PATIENTS, 0, 20)
    assert echo["made_to_real"] == echo["real_to_real"]
    assert echo["ratio"] == 1
    assert echo["cases_a_side"] == 12
    far = frechet_beside_floor(real, [m + 2 for m in samples(1, each=4)], PATIENTS, 0, 20)
    assert far["ratio"] > 3
    assert far["splits_above_their_floor"] == 1
    assert far["real_to_real"] == echo["real_to_real"]


def test_a_shift_that_the_axes_miss_is_told() -> None:
    rng = np.random.default_rng(0)
    real = [np.concatenate([rng.standard_normal((1, 6)), np.zeros((1, 1))], axis=1) for _ in range(24)]
    off = frechet_beside_floor(real, [r + np.eye(7)[6] * 50 for r in real], PATIENTS, 0, 5)
    assert off["mean_shift_off_axes"] > 0.99
    assert off["ratio"] < 2


def test_the_perceptual_distance_is_zero_for_the_same_and_grows_with_the_change() -> None:
    net, case = tissue_shares(), person(0)
    maps = [volume_maps(net, ct) for ct in (case.ct_hu, case.ct_hu + 20, case.ct_hu + 200)]
    assert perceptual(maps[0], maps[0]) == 0
    assert 0 < perceptual(maps[0], maps[1]) < perceptual(maps[0], maps[2])
    ones, other = np.array([[1.0], [0.0]]), np.array([[0.0], [3.0]])
    assert perceptual([ones, ones], [other, ones]) == pytest.approx(1)  # |u - v|^2 of orthogonal maps is 2, of equal 0


def test_features_come_from_the_network_that_is_named() -> None:
    assert network("feature_networks:tissue_shares").name == "tissue shares"
    assert isinstance(network("autoencoder"), FeatureNetwork)
    for spec, told in (("feature_networks:none", "none"), ("nowhere:at_all", "nowhere"), ("astral", "astra, autoenc")):
        with pytest.raises(SourceError, match=told):
            network(spec)
    with pytest.raises(SourceError, match="FeatureNetwork, got str"):
        network("feature_networks:nothing")


def test_the_autoencoder_measures_slices_of_any_size_and_stacks_them_to_volumes() -> None:
    net, ct = autoencoder_network(), person(0).ct_hu[:, :24, :]
    maps = slice_maps(net, ct, "axial", 8)
    assert [len(m) for m in maps] == [4] * len(maps)
    assert len(maps) == 5
    with torch.inference_mode():
        torso = CTAutoencoder.from_pretrained(model_folder("torso") / "autoencoder").float()
        padded = torch.nn.functional.pad(torch.from_numpy(ct[:, :, 4]), (0, 8), value=-1024)
        latents = torso.encode(padded[None, None]).numpy()
    assert maps[-1][0] == pytest.approx(latents[0], abs=1e-4)
    assert vectors(net, maps[-1]).shape == (4, latents.shape[1] * 16)
    assert volume_maps(net, ct, 8)[-1].shape == (*latents.shape[1:], 4)
    assert len(slice_maps(net, ct, "coronal", 8)[0]) == 3


def test_masks_are_rendered_with_one_value_a_class() -> None:
    values = rendered(np.arange(21, dtype=np.uint8), 21)
    assert values[[0, 1, 20]].tolist() == [-1000, -400, 800]
    assert len(np.unique(values)) == 21


def test_pairs_are_measured_once_and_then_remembered(tmp_path, monkeypatch) -> None:
    net = tissue_shares()
    ruler = Ruler(net, net, Store(tmp_path), every=8)
    a, b = person(0).ct_hu, person(1).ct_hu
    found = apart(ruler, a, b)
    assert set(found) == {"volume", "axial", "coronal", "sagittal"}
    assert min(found.values()) > 0
    assert max(apart(ruler, a, a).values()) == 0
    monkeypatch.setattr(Ruler, "maps", lambda *_: pytest.fail("measured twice"))
    assert apart(ruler, a, b) == found
    with pytest.raises(pytest.fail.Exception, match="measured twice"):
        apart(replace(ruler, every=4), a, b)


def test_the_command_measures_a_model_and_prints_why_the_paper_does_not_compare(tmp_path, monkeypatch, capsys) -> None:
    prepared, affine = tmp_path / "prepared", centred_affine(SMALL.shape, SMALL.spacing_mm)
    prepared.mkdir()
    for k in range(6):
        save_case(prepared / f"case-{k:06d}.npz", person(k))
    calls: list[int] = []

    def new_people(findings, reports, keys, seeds) -> list[Case]:
        calls.append(seeds[0])
        new = person(100 + len(calls))
        return [Case(keys[0], np.rint(new.ct_hu).astype(np.int16), new.label_map, affine, "", findings[0])]

    pipe = SimpleNamespace(
        generate=new_people,
        anatomy=SMALL,
        fingerprint="new people",
        encode=lambda _: torch.zeros(1),
        organ_hu=lambda *_: None,
        sample_cts=lambda labels, *_, **__: torch.where(labels > 0, 60, -1000),
        autoencoder=CTAutoencoder(latent_channels=4, block_out_channels=(8, 16)),
    )
    monkeypatch.setattr(fidelity.GuideGenPipeline, "from_pretrained", lambda _: pipe)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    own = "feature_networks:tissue_shares"
    arguments = [str(prepared), "--num", "6", "--features", own, "--slice-features", own, "--splits", "5"]
    monkeypatch.setattr(sys, "argv", ["fidelity", *arguments, "--work", str(tmp_path / "work")])
    fidelity.main()
    assert PAPER["why_they_do_not_compare"] in capsys.readouterr().out
    figures = json.loads((tmp_path / "fidelity.json").read_text())["figures"]
    assert figures["paper"] == PAPER
    assert (figures["num_cases"], figures["num_patients"], figures["compared_with"]) == (6, 6, "training")
    for what in ("images", "images_of_real_label_maps", "masks"):
        for space in ("volume", "axial", "coronal", "sagittal"):
            assert figures[what][space]["frechet"]["real_to_real"]["mean"] > 0
            assert 0 < figures[what][space]["kernel"]["p_value"] <= 1
    assert (
        figures["images_of_real_label_maps"]["axial"]["frechet"]["ratio"]
        > figures["images"]["axial"]["frechet"]["ratio"]
    )
    pairs = figures["perceptual"]
    assert set(pairs["images"]) == {"generated", "of_real_label_map", "autoencoded", "two_patients"}
    assert set(pairs["masks"]) == {"generated", "two_patients"}
    assert pairs["images"]["two_patients"]["axial"]["num"] == 6
    shown = rows(figures)
    assert any("FVD-I 1030.3" in what + figure for what, figure in shown)
    assert any("cannot" in what + figure or "none of" in what + figure for what, figure in shown)
    fidelity.main()
    assert len(calls) == 6  # the second run found its cases where the first had left them
