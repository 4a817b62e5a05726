"""A model made of three runs: its folder and card, and its table beside real cases."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import little_patients
import numpy as np
import pytest
import torch
import yaml

from guidegen_data.anatomy import ANATOMIES
from guidegen_data.anatomy_files import write_anatomy
from guidegen_data.case import Case, centred_affine
from guidegen_data.cli.main import main
from guidegen_data.metrics.evaluation import evaluate, real_cases
from guidegen_data.metrics.frechet import frechet_distance, slice_features
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.prepared import case_paths, load_case


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """prepared/, runs/ and model/ of eight small patients and a few steps a stage."""
    folder = tmp_path_factory.mktemp("work")
    little_patients.write_nifti(folder / "little_set", 8)
    table, runs = str(folder / "little_set" / "anatomy.yaml"), folder / "runs"
    src, prepared = str(folder / "little_set"), str(folder / "prepared")
    assert main(["prepare", "nifti", src, prepared, "--anatomy", table, "--validation-share", "0.5"]) == 0
    for stage in ("autoencoder", "masks", "slices"):
        extra = ["--autoencoder", str(runs / "autoencoder")] if stage == "slices" else []
        short = ["--recipe", "tiny", "--num-steps", "4", "--validate-every", "2", "--device", "cpu"]
        assert main(["train", stage, prepared, str(runs / stage), *extra, *short]) == 0
    return folder


@pytest.fixture(scope="module")
def model(work) -> Path:
    runs, out = work / "runs", work / "model"
    assert main(["export", str(runs / "masks"), str(runs / "slices"), str(out), "--licence", "CC BY 4.0"]) == 0
    return out


def drawn(pipe, condition, generators, *_, **__) -> torch.Tensor:
    """What stage 1 would draw had it been trained: a label map of a real case."""
    maps = [load_case(p).label_map for p in case_paths(pipe.maps)]
    which = [int(torch.randint(len(maps), (1,), generator=g)) for g in generators]
    return torch.stack([torch.from_numpy(maps[k]) for k in which])


def test_the_table_of_a_model_is_printed_and_saved(work, model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(GuideGenPipeline, "maps", work / "prepared" / "train", raising=False)
    monkeypatch.setattr(GuideGenPipeline, "sample_masks", drawn)
    arguments = ["evaluate", str(model), str(work / "prepared"), "--num", "4", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    table = capsys.readouterr().out
    figures = json.loads((tmp_path / "a.json").read_text())
    assert (tmp_path / "a.md").read_text() == table
    assert "4 cases beside validation cases" in table
    for row in (
        "autoencoder: mean",
        "masks: error",
        "consistency: lesions",
        "HU: median of liver",
        "fidelity",
        "copying",
    ):
        assert f"| {row}" in table
    assert figures["model_sha256"] == GuideGenPipeline.from_pretrained(model, device="cpu").fingerprint
    assert figures["num_cases"] == 4
    assert figures["fidelity"]["real_to_real"] >= 0
    assert figures["autoencoder_mae_hu"]["full"] > 0
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b.json").read_text()) == figures


def test_a_generator_that_gives_real_cases_back_is_perfect(work, model) -> None:
    pipe = GuideGenPipeline.from_pretrained(model, device="cpu")
    real = real_cases(work / "prepared", pipe.anatomy, 4)
    assert len(real.cases) == 4
    left = iter(real.cases)

    def again(findings, reports, keys, seeds) -> list[Case]:
        c, affine = next(left), centred_affine(pipe.anatomy.shape, pipe.anatomy.spacing_mm)
        return [Case(keys[0], np.rint(c.ct_hu).astype(np.int16), c.label_map, affine, "", findings[0], {})]

    echo = SimpleNamespace(generate=again, anatomy=pipe.anatomy, autoencoder=pipe.autoencoder, fingerprint="")
    figures = evaluate(echo, real, seed=0)
    found = figures["consistency"]
    assert found["lesions"]["acc"] == 1
    assert found["lesions"]["N"] == sum(len(c.findings.lesions) for c in real.cases) > 0
    assert found["organ_statuses"]["N"] == sum(len(c.findings.organs) for c in real.cases)
    assert found["organ_statuses"]["found"] in (1, None)
    assert found["habitus"] == {"N": 4, "found": 1}
    assert all(row["difference"] == 0 for row in figures["hu"].values())
    assert "liver" in figures["hu"]
    assert figures["masks"]["volume_log2_error"] == 0
    others = figures["masks_of_other_patients"]
    assert others["volume_log2_error"] > 0
    assert others["classes_present"] == 1
    left = iter(real.cases)
    assert evaluate(echo, replace(real, training=real.cases), seed=0)["masks_of_other_patients"] is None
    assert figures["masks"]["pieces_ratio"] == figures["masks"]["classes_present"] == 1
    assert figures["fidelity"]["generated_to_real"] == figures["fidelity"]["real_to_real"] > 0
    near = figures["nearest_training_dice"]
    assert near["generated"] == near["real"] < 1
    copied = evaluate(
        SimpleNamespace(
            generate=lambda f, r, k, s: [
                Case(k[0], np.rint(real.cases[0].ct_hu).astype(np.int16), real.training[0].label_map,
                     centred_affine(pipe.anatomy.shape, pipe.anatomy.spacing_mm), "", f[0], {})
            ],
            anatomy=pipe.anatomy, autoencoder=pipe.autoencoder, fingerprint="",
        ),
        real, seed=0,
    )  # fmt: skip
    assert copied["nearest_training_dice"]["generated"] == 1
    assert copied["nearest_training_dice"]["real"] == near["real"]


def test_the_frechet_distance_is_that_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4000, 3)), rng.standard_normal((4000, 3)) * [1, 2, 3] + [1, 0, -2]
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 4, rel=0.05)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + np.array([0, 2, 0])) == pytest.approx(4)


def test_features_leave_empty_slices_out(model) -> None:
    pipe = GuideGenPipeline.from_pretrained(model, device="cpu")
    ct = np.full((32, 32, 7), -1024, np.float32)
    assert slice_features(pipe.autoencoder, ct).shape == (0, 64)
    ct[8:24, 8:24, 2:5] = 40
    assert slice_features(pipe.autoencoder, ct).shape == (3, 64)


def test_data_of_another_table_and_too_few_cases_are_refused(work, model, tmp_path, capsys) -> None:
    assert main(["evaluate", "torso", str(work / "prepared"), "--device", "cpu", "--out", str(tmp_path / "x")]) == 1
    assert "prepared with other classes or organs than the model's" in capsys.readouterr().err
    assert main(["evaluate", str(model), str(work / "prepared"), "--num", "1"]) == 1
    assert "--num must be at least 2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_data_measured_on_other_patients_leaves_the_model_its_own_table(work, model, tmp_path, monkeypatch) -> None:
    pipe = GuideGenPipeline.from_pretrained(model, device="cpu")
    own, data = pipe.anatomy, tmp_path / "data"
    shutil.copytree(work / "prepared", data)
    write_anatomy(replace(own, size_ml={"liver": (1.0, 2.0)}), data / "anatomy.yaml")
    real_cases(data, pipe.anatomy, 4)
    assert pipe.anatomy is own
    assert own.size_ml != {"liver": (1.0, 2.0)}
    # One of another name takes no table's place, and the findings of its cases need it.
    monkeypatch.delitem(ANATOMIES, "elsewhere", raising=False)
    write_anatomy(replace(own, name="elsewhere"), data / "anatomy.yaml")
    real_cases(data, pipe.anatomy, 4)
    assert ANATOMIES["elsewhere"].size_ml == own.size_ml
    assert pipe.anatomy is own


def changed(run: Path, out: Path, **entries) -> Path:
    """A copy of a run whose label table has other entries."""
    shutil.copytree(run, out)
    table = yaml.safe_load((out / "anatomy.yaml").read_text())
    (out / "anatomy.yaml").write_text(yaml.safe_dump(table | entries))
    return out


def test_runs_of_two_tables_make_no_model(work, tmp_path, capsys) -> None:
    masks, slices = work / "runs" / "masks", work / "runs" / "slices"
    classes = yaml.safe_load((slices / "anatomy.yaml").read_text())["classes"]
    turned = [classes[0], classes[2] | {"id": 1}, classes[1] | {"id": 2}, classes[3]]
    others = {"turned": {"classes": turned}, "fine": {"spacing_mm": [6.0, 6.0, 6.0]}}
    told = {
        "turned": "learned another label table than two-organs",
        "fine": "learned at (6.0, 6.0, 6.0) mm, here it is (12.0, 12.0, 12.0) mm",
    }
    for name, entries in others.items():
        of_slices = changed(slices, tmp_path / name, **entries)
        assert main(["export", str(masks), str(of_slices), str(tmp_path / "out")]) == 1
        assert f"{of_slices} {told[name]}" in capsys.readouterr().err
        of_masks = changed(masks, tmp_path / f"masks-{name}", **entries)
        table = ["--anatomy", str(slices / "anatomy.yaml")]
        assert main(["export", str(of_masks), str(slices), str(tmp_path / "out"), *table]) == 1
        assert f"{of_masks} {told[name]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_of_plain_cts_the_autoencoder_is_measured(work, model, tmp_path, capsys) -> None:
    arguments = ["evaluate", str(model), str(work / "little_set"), "--only", "p1", "p2", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "x")]) == 0
    errors = json.loads((tmp_path / "x.json").read_text())["mae_hu"]
    assert errors.keys() == {"p1", "p2"}
    assert all(row["full"] > 0 for row in errors.values())
    assert "| p2 |" in capsys.readouterr().out


def test_the_card_of_a_model_is_filled_in_from_its_runs(work, model, tmp_path) -> None:
    card = (model / "README.md").read_text()
    assert card.startswith("# model: CT volumes")
    assert "little_set (nifti layout): 4 patients trained on, 4 kept apart for validation" in card
    assert "32 x 32 x 32 voxels of 12 x 12 x 12 mm, 4 classes of the two-organs table: background, liver" in card
    assert "## Licence\n\nCC BY 4.0\n" in card
    assert str(work) not in card
    for stage in ("autoencoder", "masks", "slices"):
        lines = [json.loads(x) for x in (work / "runs" / stage / "validation.jsonl").read_text().splitlines()]
        assert [x["step"] for x in lines] == [1, 3]
        best = min(lines, key=lambda x: x["total"])
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {stage} |"))
        assert f"| tiny | 4 of 2 | total {best['total']:.4g}" in row
        assert f"(step {best['step'] + 1})" in row
    bare = tmp_path / "bare"
    shutil.copytree(work / "runs" / "slices", bare)
    (bare / "about.json").unlink()
    assert main(["export", str(work / "runs" / "masks"), str(bare), str(tmp_path / "old")]) == 0
    assert "| autoencoder | ? | ? | not validated |" in (tmp_path / "old" / "README.md").read_text()
