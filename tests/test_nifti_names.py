"""The `nifti` layout: every file finds its CT, or is told of."""

import json
from pathlib import Path

import pytest
from little_patients import write_nifti

from guidegen_data.cli.main import main
from guidegen_data.errors import SourceError
from guidegen_data.sources.bases import find_bases
from guidegen_data.sources.layouts import classes_file, find_nifti


def folder_of(path: Path, *names: str) -> Path:
    """A folder of empty files: listing reads none."""
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).touch()
    return path


def test_class_names_with_underscores_belong_to_the_longest_case_name_they_follow(tmp_path) -> None:
    folder_of(tmp_path, "a_ct.nii.gz", "a_small_bowel.nii.gz", "a_label.nii", "a_b_ct.nii.gz", "a_b_kidney_left.nii.gz")
    folder_of(tmp_path, "a_bladder.nii.gz", "a_b_urinary_bladder.nii.gz")
    cases, left_over = find_nifti(tmp_path)
    held = {case.name: ({*case.masks}, case.ct.name, case.label and case.label.name) for case in cases}
    assert held == {
        "a": ({"small_bowel", "bladder"}, "a_ct.nii.gz", "a_label.nii"),
        "a_b": ({"kidney_left", "urinary_bladder"}, "a_b_ct.nii.gz", None),
    }
    assert left_over == []


def test_dots_in_a_case_name_are_its_own(tmp_path) -> None:
    folder_of(tmp_path, "1.3.6.1_ct.nii.gz", "1.3.6.1_label.nii.gz", "1.3.6.2_ct.nii", "1.3.6.2_spinal_cord.nii.gz")
    cases, left_over = find_nifti(tmp_path)
    assert [(case.name, *case.masks) for case in cases] == [("1.3.6.1",), ("1.3.6.2", "spinal_cord")]
    assert cases[0].label == tmp_path / "1.3.6.1_label.nii.gz"
    assert left_over == []
    assert find_bases(tmp_path)["1.3.6.1"] == (tmp_path / "1.3.6.1_ct.nii.gz", tmp_path / "1.3.6.1_label.nii.gz")


def test_files_of_no_ct_are_left_over_and_hidden_ones_are_nobody_s(tmp_path) -> None:
    folder_of(tmp_path, "a_ct.nii.gz", "._a_ct.nii.gz", "b_label.nii.gz", "atlas.nii.gz", "ab_liver.nii.gz")
    cases, left_over = find_nifti(tmp_path)
    assert [case.name for case in cases] == ["a"]
    assert left_over == ["ab_liver.nii.gz", "atlas.nii.gz", "b_label.nii.gz"]


def test_rows_of_findings_for_no_ct_are_left_over(tmp_path) -> None:
    folder_of(tmp_path / "train", "a_ct.nii.gz")
    folder_of(tmp_path / "validation", "b_ct.nii.gz")
    (tmp_path / "findings.csv").write_text("name,sex\na,F\nb,M\nbb,M\n")
    cases, left_over = find_nifti(tmp_path)
    assert {case.name: case.told for case in cases} == {"a": {"sex": "female"}, "b": {"sex": "male"}}
    assert left_over == ["findings.csv: bb"]


def test_prepare_tells_which_files_belong_to_no_ct(tmp_path, capsys) -> None:
    write_nifti(tmp_path / "src" / "train", 4)
    (tmp_path / "src" / "train" / "p3_ct.nii.gz").unlink()
    for name in ("classes.json", "anatomy.yaml"):
        (tmp_path / "src" / "train" / name).rename(tmp_path / "src" / name)
    words = ["prepare", "nifti", str(tmp_path / "src"), str(tmp_path / "out")]
    assert main([*words, "--anatomy", str(tmp_path / "src" / "anatomy.yaml")]) == 0
    assert "belong to no NAME_ct, left out: train/p3_label.nii.gz\n" in capsys.readouterr().out
    assert "train/p3_label.nii.gz" in (tmp_path / "out" / "summary.html").read_text()


def test_two_files_of_class_names_are_refused_unless_one_is_given(tmp_path) -> None:
    assert classes_file(tmp_path, None) is None
    (tmp_path / "new_classes.json").write_text(json.dumps({1: "liver"}))
    assert classes_file(tmp_path, None) == {1: "liver"}
    (tmp_path / "old_classes.json").write_text(json.dumps({1: "spleen"}))
    with pytest.raises(SourceError, match=r"got new_classes.json, old_classes.json; name the right one with --classes"):
        classes_file(tmp_path, None)
    assert classes_file(tmp_path, tmp_path / "old_classes.json") == {1: "spleen"}
