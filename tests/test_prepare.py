"""`guidegen prepare` on data sets of real patients: layouts, grids, splits, refusals, resuming."""

import csv
import json
import re
import shutil
from pathlib import Path

import little_patients
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from little_patients import patient, save, write_nifti, write_openkbp
from scipy import ndimage

from guidegen_data.anatomy_files import read_anatomy
from guidegen_data.cli.main import main
from guidegen_data.errors import SourceError
from guidegen_data.sources.layouts import SourceCase, split_by_patient
from guidegen_data.sources.prepared import case_paths, load_case
from guidegen_data.sources.real import RealConfig, prepare_real
from guidegen_data.sources.warp import sample_classes


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_nifti(folder, 5)
    return folder


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    assert main(command("nifti", source, out)) == 0
    return out


def command(layout: str, src: Path, out: Path, *more: str, anatomy: Path | None = None) -> list[str]:
    table = anatomy or src / "anatomy.yaml"
    return ["prepare", layout, str(src), str(out), "--anatomy", str(table), "--validation-share", "0.2", *more]


def contents(out: Path) -> dict[str, bytes]:
    files = sorted(
        p for p in out.rglob("*") if p.is_file() and p.suffix in (".npz", ".csv", ".jsonl", ".yaml", ".json")
    )
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def notes(out: Path) -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in sorted((out / "cases").glob("*.json"))}


def cases_of(out: Path):
    return {c.base: c for split in ("train", "validation") for c in map(load_case, case_paths(out / split))}


def test_cases_lie_on_the_model_s_grid_with_what_was_measured_of_them(prepared) -> None:
    anatomy, cases = read_anatomy(prepared / "anatomy.yaml"), cases_of(prepared)
    assert sorted(cases) == [f"p{k}" for k in range(5)]
    for name, case in cases.items():
        ct, label = patient(int(name[1:]))
        assert case.label_map.shape == case.ct_hu.shape == (32, 32, 32)
        made_ml = np.bincount(case.label_map.ravel(), minlength=4)[1:] * 12**3 / 1000
        given_ml = np.bincount(label.ravel(), minlength=4)[1:] * 1.2
        np.testing.assert_allclose(made_ml, given_ml, rtol=0.12, atol=8)
        right = [np.argwhere(case.label_map == k)[:, 0].mean() for k in (1, 2)]
        assert right[0] > 16 > right[1], "the liver lies on the right, where x grows"
        inner = ndimage.binary_erosion(case.label_map == 1)
        assert np.median(case.ct_hu[inner]) == pytest.approx(np.median(ct[label == 1]), abs=6)
        assert [x.organ for x in case.findings.lesions] == (["liver"] if label.max() == 3 else [])
    assert set(anatomy.layout_mm) == {"liver", "spleen"}
    assert anatomy.size_ml.keys() == {"liver", "spleen"}


@pytest.mark.parametrize("axes", ["LPS", "SAR", "PIL"])
def test_the_orientation_of_a_file_changes_nothing(axes, prepared, tmp_path) -> None:
    write_nifti(tmp_path / "turned", 5, axes)
    assert main(command("nifti", tmp_path / "turned", tmp_path / "out")) == 0
    straight, turned = cases_of(prepared), cases_of(tmp_path / "out")
    assert straight.keys() == turned.keys()
    for name, case in straight.items():
        assert np.array_equal(case.label_map, turned[name].label_map)
        assert np.array_equal(case.ct_hu, turned[name].ct_hu)
        assert case.findings == turned[name].findings


def test_killed_half_way_and_run_again_gives_the_same_bytes(source, prepared, tmp_path) -> None:
    config = RealConfig("nifti", source.name, "two-organs", 0, 0.2, 0, {})
    steps = prepare_real(source, tmp_path / "out", config, read_anatomy(source / "anatomy.yaml"))
    done = [next(steps) for _ in range(6)]
    steps.close()
    assert [stage for stage, _, _ in done] == ["surveying"] * 4 + ["preparing"] * 2
    assert len(list((tmp_path / "out" / "cases").iterdir())) == 2
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("case-*.npz")}
    assert main(command("nifti", source, tmp_path / "out")) == 0
    assert contents(tmp_path / "out") == contents(prepared)
    assert before
    assert all(p.stat().st_mtime_ns == when for p, when in before.items()), "what was done is not done again"


def test_two_processes_and_copies_give_what_one_gives(source, prepared, tmp_path, capsys) -> None:
    assert main(command("nifti", source, tmp_path / "out", "--augment", "2", "--workers", "2")) == 0
    assert "train: 4 patients' cases, 12 files" in capsys.readouterr().out
    paths = case_paths(tmp_path / "out" / "train")
    assert len(case_paths(tmp_path / "out" / "validation")) == 1
    plain = [load_case(p) for p in case_paths(prepared / "train")]
    made = [load_case(p) for p in paths]
    assert [c.base for c in made] == [c.base for c in plain for _ in range(3)]
    assert all(np.array_equal(made[3 * k].ct_hu, c.ct_hu) for k, c in enumerate(plain))
    copies = [(made[3 * k], made[3 * k + 1]) for k in range(4)]
    assert all(not np.array_equal(a.label_map, b.label_map) for a, b in copies)
    for case, copy in copies:
        assert (copy.label_map == 1).sum() == pytest.approx((case.label_map == 1).sum(), rel=0.35)
    assert main(command("nifti", source, tmp_path / "out")) == 1
    assert "another configuration" in capsys.readouterr().err


def test_reports_and_a_csv_of_findings_are_taken_over(source, tmp_path) -> None:
    src = tmp_path / "src"
    shutil.copytree(source, src)
    (src / "p0.txt").write_text("The spleen is enlarged. No focal lesion.")
    (src / "findings.csv").write_text(
        "name,patient,sex,age,phase\np0,A,F,43,\np1,A,F,44,arterial\np2,B,M,71,portal venous\np3,C,,,\np4,D,,,\n"
    )
    assert main(command("nifti", src, tmp_path / "out", "--validation-share", "0.25")) == 0
    told = {name: note["findings"] for name, note in notes(tmp_path / "out").items()}
    assert told["p0"]["organs"] == {"spleen": "enlarged"}
    assert notes(tmp_path / "out")["p0"]["report_read"] is True
    assert (told["p1"]["phase"], told["p1"]["sex"], told["p1"]["age_decade"]) == ("arterial", "female", 40)
    assert (told["p2"]["phase"], told["p2"]["sex"], told["p2"]["age_decade"]) == ("portal venous", "male", 70)
    assert (told["p3"]["sex"], told["p3"]["age_decade"]) == ("", None)
    with open(tmp_path / "out" / "split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["patient"] for r in rows] == ["A", "A", "B", "C", "D"]
    assert rows[0]["split"] == rows[1]["split"]
    assert sum(r["split"] == "validation" for r in rows) in (1, 2)


@given(
    st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from(["", "train"])), min_size=1, max_size=20),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_a_split_never_shares_a_patient(scans, share, seed) -> None:
    stated = {p for p, split in scans if split}
    cases = [
        SourceCase(f"c{k}", p, Path(f"c{k}"), split="train" if p in stated else "") for k, (p, _) in enumerate(scans)
    ]
    done = split_by_patient(cases, share, seed)
    assert [c.name for c in done] == [c.name for c in cases]
    sides = {p: {c.split for c in done if c.patient == p} for p, _ in scans}
    assert all(len(s) == 1 and s <= {"train", "validation"} for s in sides.values())
    assert all(sides[p] == {"train"} for p in stated)
    free = {p for p, _ in scans} - stated
    assert sum(sides[p] == {"validation"} for p in free) == round(share * len(free))


def test_a_stated_split_that_shares_a_patient_is_refused() -> None:
    cases = [SourceCase("a", "P", Path("a"), split="train"), SourceCase("b", "P", Path("b"), split="validation")]
    with pytest.raises(SourceError, match=r"patients \['P'\] are in train and in validation"):
        split_by_patient(cases, 0.2, 0)


def test_broken_cases_are_refused_with_a_reason_and_the_others_go_on(source, tmp_path, capsys) -> None:
    src, (ct, label) = tmp_path / "src", patient(6)
    shutil.copytree(source, src)
    whole = (src / "p0_ct.nii.gz").read_bytes()
    (src / "cut_ct.nii.gz").write_bytes(whole[: len(whole) // 2])
    save(label, src / "cut_label.nii.gz")
    save((ct.astype(np.float32) + 1024) / 3000, src / "scaled_ct.nii.gz")
    save(label, src / "scaled_label.nii.gz")
    save(ct, src / "shifted_ct.nii.gz")
    save(label[:-2], src / "shifted_label.nii.gz")
    save(ct, src / "named_ct.nii.gz")
    save(label + np.uint8(40) * (label == 2), src / "named_label.nii.gz")
    save(ct, src / "empty_ct.nii.gz")
    save(np.zeros_like(label), src / "empty_label.nii.gz")
    assert main(command("nifti", src, tmp_path / "out")) == 0
    lines = (tmp_path / "out" / "refused.jsonl").read_text().splitlines()
    why = {entry["name"]: entry["why"] for entry in map(json.loads, lines)}
    assert sorted(why) == ["cut", "empty", "named", "scaled", "shifted"]
    assert "no readable NIfTI volume" in why["cut"]
    assert "HU" in why["scaled"]
    assert "must share one grid" in why["shifted"]
    assert "label ids [42] without a name" in why["named"]
    assert "no label of the two-organs table" in why["empty"]
    assert "refused: 5" in capsys.readouterr().out
    assert sorted(cases_of(tmp_path / "out")) == [f"p{k}" for k in range(5)]
    page = (tmp_path / "out" / "summary.html").read_text()
    assert "5 cases, 5 refused" in page
    assert "must share one grid" in page


def test_totalsegmentator_cases_are_read_from_one_mask_a_class(prepared, source, tmp_path, capsys) -> None:
    src = tmp_path / "dataset"
    for k in range(5):
        ct, label = patient(k)
        save(ct, src / f"p{k}" / "ct.nii.gz")
        masks = {"liver": (label == 1) | (label == 3), "spleen": label == 2, "tumour": label == 3, "kidney": label > 9}
        for name, mask in masks.items():
            save(mask.astype(np.uint8), src / f"p{k}" / "segmentations" / f"{name}.nii.gz")
    (src / "held" / "segmentations").mkdir(parents=True)
    (src / "held" / "ct.nii.gz").write_bytes(b"never read")
    stated = {row["case"]: row["split"] for row in csv.DictReader((prepared / "split.csv").open(newline=""))}
    rows = [f"p{k};{41 + k};{'mf'[k % 2]};{stated[f'p{k}'].replace('validation', 'val')}" for k in range(5)]
    (src / "meta.csv").write_text("\n".join(["image_id;age;gender;split", *rows, "held;50;m;test", ""]))
    assert main(command("totalsegmentator", src, tmp_path / "out", anatomy=source / "anatomy.yaml")) == 0
    assert "not in the two-organs table, left out: kidney" in capsys.readouterr().out
    here, there = cases_of(tmp_path / "out"), cases_of(prepared)
    assert here.keys() == there.keys()
    for name, case in here.items():
        assert np.array_equal(case.label_map, there[name].label_map), "a lesion is drawn over its organ"
        assert (case.findings.sex, case.findings.age_decade) == (("male", "female")[int(name[1:]) % 2], 40)


def test_nnunet_data_sets_are_read_with_their_own_names(prepared, source, tmp_path, capsys) -> None:
    src = tmp_path / "Dataset001_Two"
    labels = {"background": 0, "Leber": 4, "Milz": 2, "tumour": 3, "Niere": 1}
    for k in range(5):
        ct, label = patient(k)
        save(ct, src / "imagesTr" / f"p{k}_0000.nii.gz")
        save(np.array([0, 4, 2, 3], np.uint8)[label], src / "labelsTr" / f"p{k}.nii.gz")
    about = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 5}
    (src / "dataset.json").write_text(json.dumps(about))
    arguments = command("nnunet", src, tmp_path / "out", "--map", "Milz=spleen", anatomy=source / "anatomy.yaml")
    assert main(arguments) == 0
    assert "left out: Niere" in capsys.readouterr().out
    here, there = cases_of(tmp_path / "out"), cases_of(prepared)
    assert here.keys() == there.keys()
    assert all(np.array_equal(case.label_map, there[name].label_map) for name, case in here.items())
    (src / "dataset.json").write_text(json.dumps(about | {"channel_names": {"0": "T1"}}))
    assert main(command("nnunet", src, tmp_path / "mr", anatomy=source / "anatomy.yaml")) == 1
    assert "must have the one channel CT, got ['t1']" in capsys.readouterr().err


def test_openkbp_as_downloaded_comes_out_upright(tmp_path) -> None:
    src = tmp_path / "provided-data"
    write_openkbp(src, 2)
    write_openkbp(src, 1, "validation")
    shutil.move(src / "validation-pats" / "pt_1", src / "validation-pats" / "pt_201")
    (src / "test-pats" / "pt_300").mkdir(parents=True)
    (src / "test-pats" / "pt_300" / "ct.csv").write_text("never read")
    (src / "train-pats" / "pt_2" / "ct.csv").write_text(",data\n99999999,1000\n")
    assert main(["prepare", "openkbp", str(src), str(tmp_path / "out")]) == 0
    refused = json.loads((tmp_path / "out" / "refused.jsonl").read_text())
    assert refused["name"] == "pt_2"
    assert "indices outside of a 128^3 array" in refused["why"]
    assert notes(tmp_path / "out").keys() == {"pt_1", "pt_2", "pt_201"}
    (case,) = (load_case(p) for p in case_paths(tmp_path / "out" / "train"))
    (apart,) = (load_case(p) for p in case_paths(tmp_path / "out" / "validation"))
    assert (case.base, apart.base) == ("pt_1", "pt_201")
    anatomy = read_anatomy(tmp_path / "out" / "anatomy.yaml")
    assert case.label_map.shape == anatomy.shape
    middle = {
        c.name: np.argwhere(case.label_map == c.id).mean(axis=0) * anatomy.spacing_mm
        for c in anatomy.classes
        if (case.label_map == c.id).any()
    }
    assert middle["right parotid"][0] > middle["spinal cord"][0] + 40 > middle["left parotid"][0] + 80
    assert middle["mandible"][1] > middle["spinal cord"][1] + 70, "the jaw is in front"
    assert middle["brainstem"][2] > middle["larynx"][2] + 70, "the brain is above"
    np.testing.assert_allclose(
        middle["mandible"] - middle["larynx"], np.subtract(*[little_patients.HEAD_AND_NECK[n][0] for n in
        ("Mandible", "Larynx")]), atol=9,
    )  # fmt: skip
    jaw = case.ct_hu[case.label_map == anatomy.id_of("mandible")]
    assert np.median(jaw) == pytest.approx(700, abs=40)
    (lesion,) = case.findings.lesions
    assert lesion.organ == "right hemineck"


def test_labels_are_resampled_by_the_probability_of_each_class() -> None:
    rng = np.random.default_rng(3)
    labels = ndimage.zoom(rng.integers(0, 4, (5, 5, 5)), 4, order=0).astype(np.uint8)
    spacing, blur = (2.0, 1.5, 1.0), [0.4, 0.7, 1.1]
    grid = np.meshgrid(np.linspace(3, 34, 9), np.linspace(2, 25, 8), np.linspace(2, 16, 7), indexing="ij")
    points = np.stack(grid).astype(np.float32)
    index = points / np.reshape(spacing, (3, 1, 1, 1))
    shares = np.stack(
        [
            ndimage.map_coordinates(ndimage.gaussian_filter((labels == k).astype(np.float32), blur), index, order=1)
            for k in range(4)
        ]
    )
    made = sample_classes(labels, points, spacing, blur)
    ordered = np.sort(shares, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4
    assert clear.mean() > 0.9
    assert np.array_equal(made[clear], shares.argmax(axis=0)[clear])
    renamed = np.array([2, 0, 3, 1], np.uint8)
    again = sample_classes(renamed[labels], points, spacing, blur)
    assert np.array_equal(again[clear], renamed[made][clear])


def test_too_few_patients_to_measure_a_table_on_are_refused(tmp_path, capsys) -> None:
    write_nifti(tmp_path / "src", 2)
    assert main(command("nifti", tmp_path / "src", tmp_path / "out")) == 1
    assert "takes 3 readable training patients, got 2" in capsys.readouterr().err


def test_contours_outside_the_plausible_ranges_are_named(source, prepared, tmp_path, capsys) -> None:
    text = (prepared / "anatomy.yaml").read_text()
    before, spleen = text.split("name: spleen\n", 1)
    table = tmp_path / "table.yaml"
    table.write_text(before + "name: spleen\n" + re.sub(r"volume_ml: .*", "volume_ml: [10, 215]", spleen, count=1))
    assert main(command("nifti", source, tmp_path / "out", anatomy=table)) == 0
    assert "look at their contours: spleen of p3 p4\n" in capsys.readouterr().out
