"""'Absent' is said of organs that the data set labels, and of no others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from little_patients import HEAD_AND_NECK, patient, save, write_nifti, write_openkbp
from test_prepare import cases_of, command, notes

from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.cli.main import main
from guidegen_data.sources.describe import describe
from guidegen_data.sources.labelling import organs_named
from guidegen_data.sources.layouts import LabelNames, SourceCase

SPLEEN = 2
LABELLED = [SourceCase("a", "a", Path("a"), label=Path("l"))]


def masks(*names: str) -> list[SourceCase]:
    return [SourceCase(n, n, Path("ct"), masks={n: Path(n)}) for n in names]


def test_a_data_set_labels_what_its_label_names_and_masks_name() -> None:
    liver = LabelNames({1: "liver", 2: "sofa"})
    assert organs_named(LABELLED, liver, TORSO) == {"liver"}
    assert organs_named([*LABELLED, *masks("urinary_bladder")], liver, TORSO) == {"liver", "urinary bladder"}
    assert organs_named(masks("gallbladder"), liver, TORSO) == {"gallbladder"}, "no label file has these ids"
    assert organs_named(masks("Milz"), LabelNames(None, {"Milz": "spleen"}), TORSO) == {"spleen"}


def test_a_name_with_a_side_is_of_that_side_alone() -> None:
    assert organs_named(masks("kidney_left"), LabelNames(None), TORSO) == {"left kidney"}
    assert organs_named(masks("kidney_left", "kidney_right"), LabelNames(None), TORSO) == {
        "left kidney",
        "right kidney",
    }
    assert organs_named(masks("kidney"), LabelNames(None), TORSO) == {"left kidney", "right kidney"}


def test_organs_that_are_never_labelled_are_not_said_to_be_absent() -> None:
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[8:16, 8:16, 8:16] = TORSO.id_of("liver")
    told = {"region": "abdomen"}
    absent = {"spleen", "right kidney", "left kidney", "gallbladder"}
    assert describe(None, labels, TORSO, told).organs == dict.fromkeys(sorted(absent), "absent")
    assert describe(None, labels, TORSO, told, {"liver"}).organs == {}
    assert describe(None, labels, TORSO, told, {"liver", "spleen"}).organs == {"spleen": "absent"}


def test_a_measured_table_without_the_place_of_an_organ_says_nothing_of_its_absence() -> None:
    ct = np.full(HEAD_NECK.shape, 40.0, np.float32)
    labels = np.zeros(HEAD_NECK.shape, np.uint8)
    labels[60:64, 60:64, 60:64] = HEAD_NECK.id_of("mandible")
    named = set(describe(ct, labels, HEAD_NECK).organs)
    assert {"larynx", "brainstem"} <= named
    rarely = replace(HEAD_NECK, layout_mm={k: v for k, v in HEAD_NECK.layout_mm.items() if k != "larynx"})
    assert set(describe(ct, labels, rarely).organs) == named - {"larynx"}
    unknown = replace(HEAD_NECK, layout_mm={})
    assert "larynx" in describe(ct, labels, unknown).organs, "a table without places cannot tell"


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A label table measured on patients who have a liver and a spleen."""
    folder = tmp_path_factory.mktemp("measured")
    write_nifti(folder / "src", 5)
    assert main(command("nifti", folder / "src", folder / "out")) == 0
    return folder / "out" / "anatomy.yaml"


@pytest.mark.parametrize("own_ids", [False, True], ids=["class names", "the table's own ids"])
@pytest.mark.parametrize("somebody", [False, True], ids=["nobody's spleen", "somebody's spleen"])
def test_a_spleen_is_absent_only_where_other_patients_have_theirs_labelled(table, tmp_path, own_ids, somebody) -> None:
    src = tmp_path / "src"
    write_nifti(src, 3)
    for k in (1, 2) if somebody else (0, 1, 2):
        label = patient(k)[1]
        save(np.where(label == SPLEEN, 0, label).astype(np.uint8), src / f"p{k}_label.nii.gz")
    (src / "classes.json").unlink()
    if not own_ids:
        names = {1: "liver", 3: "tumour"} | ({2: "spleen"} if somebody else {})
        (src / "classes.json").write_text(json.dumps(names))
    assert main(command("nifti", src, tmp_path / "out", anatomy=table)) == 0
    told = {name: note["findings"]["organs"].get("spleen", "") for name, note in notes(tmp_path / "out").items()}
    wanted = "absent" if somebody else ""
    assert (told["p1"], told["p2"]) == (wanted, wanted)
    assert len(cases_of(tmp_path / "out")) == 3


def test_in_openkbp_what_no_planner_drew_is_absent(tmp_path) -> None:
    assert "Esophagus" not in HEAD_AND_NECK
    write_openkbp(tmp_path / "src", 1)
    words = ["prepare", "openkbp", str(tmp_path / "src"), str(tmp_path / "out"), "--validation-share", "0"]
    assert main(words) == 0
    assert notes(tmp_path / "out")["pt_1"]["findings"]["organs"]["esophagus"] == "absent"
