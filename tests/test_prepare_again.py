"""`guidegen prepare` run again: on a data set that changed, with more cases, after a file was deleted or mended."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from little_patients import patient, save, write_nifti
from test_prepare import cases_of, command, contents, notes

from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.anatomy_files import anatomy_text, parse_anatomy, table_digest
from guidegen_data.cli.main import main
from guidegen_data.sources.prepared import case_paths


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Four training patients and one that is kept apart, by folder."""
    folder = tmp_path_factory.mktemp("again") / "src"
    write_nifti(folder, 5)
    for k in range(5):
        for kind in ("ct", "label"):
            name = f"p{k}_{kind}.nii.gz"
            (folder / ("train" if k < 4 else "val")).mkdir(exist_ok=True)
            shutil.move(folder / name, folder / ("train" if k < 4 else "val") / name)
    return folder


@pytest.fixture(scope="module")
def table(source) -> Path:
    """A label table that was measured on those patients."""
    out = source.parent / "measured"
    assert main(command("nifti", source, out)) == 0
    return out / "anatomy.yaml"


@pytest.fixture(scope="module")
def prepared(source, table) -> Path:
    """All patients, each training patient twice, with the table given."""
    out = source.parent / "prepared"
    assert main(twice(source, out, table)) == 0
    return out


def twice(src: Path, out: Path, table: Path, *more: str) -> list[str]:
    return command("nifti", src, out, "--augment", "1", *more, anatomy=table)


def add(folder: Path, name: str, number: int) -> None:
    for array, kind in zip(patient(number), ("ct", "label"), strict=True):
        save(array, folder / f"{name}_{kind}.nii.gz")


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_a_patient_who_would_move_the_file_numbers_is_refused_and_nothing_changes(
    source, prepared, table, tmp_path, capsys
) -> None:
    src, out = copied(source, tmp_path / "src"), copied(prepared, tmp_path / "out")
    add(src / "train", "a", 9)
    assert main(twice(src, out, table)) == 1
    assert "case 0 in its split.csv is p0 p0 train, now it is a a train" in capsys.readouterr().err
    assert contents(out) == contents(prepared)


def test_patients_at_the_end_are_added_and_the_others_stay(source, prepared, table, tmp_path) -> None:
    src, out = copied(source, tmp_path / "src"), copied(prepared, tmp_path / "out")
    add(src / "val", "q", 9)
    assert main(twice(src, out, table)) == 0
    before, after = contents(prepared), contents(out)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"validation/case-000001.npz", "cases/q.json", "split.csv", "class_volumes.csv"}


def test_a_few_cases_and_then_all_are_what_all_at_once_are(source, prepared, table, tmp_path) -> None:
    out = tmp_path / "out"
    assert main(twice(source, out, table, "--only", "2")) == 0
    assert len(notes(out)) == 2
    assert main(twice(source, out, table)) == 0
    assert contents(out) == contents(prepared)
    assert main(twice(source, out, table, "--only", "2")) == 0
    assert contents(out) == contents(prepared), "the list of all cases is kept"


def test_a_table_measured_on_a_few_is_not_taken_for_all(source, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main(command("nifti", source, out, "--only", "3")) == 0
    before = contents(out)
    assert main(command("nifti", source, out)) == 1
    assert "was measured on 3 training cases (--only), and now there are 4" in capsys.readouterr().err
    assert contents(out) == before
    assert main(command("nifti", source, out, "--only", "3")) == 0
    assert main(command("nifti", source, tmp_path / "all", anatomy=out / "anatomy.yaml")) == 0
    assert (tmp_path / "all" / "anatomy.yaml").read_bytes() == (out / "anatomy.yaml").read_bytes()


def test_a_file_that_was_deleted_is_made_again(source, prepared, table, tmp_path) -> None:
    out = copied(prepared, tmp_path / "out")
    paths = case_paths(out / "train")
    assert len(paths) == 8
    paths[1].unlink()
    paths[4].unlink()
    assert main(twice(source, out, table)) == 0
    assert contents(out) == contents(prepared)


def test_a_refused_case_whose_files_were_mended_is_taken(source, prepared, table, tmp_path) -> None:
    src, out = copied(source, tmp_path / "src"), tmp_path / "out"
    whole = (src / "train" / "p1_ct.nii.gz").read_bytes()
    (src / "train" / "p1_ct.nii.gz").write_bytes(whole[:999])
    assert main(twice(src, out, table)) == 0
    assert "p1" in (out / "refused.jsonl").read_text()
    (src / "train" / "p1_ct.nii.gz").write_bytes(whole)
    assert main(twice(src, out, table)) == 0
    assert contents(out) == contents(prepared)


def test_a_refused_case_leaves_no_file_behind(source, prepared, table, tmp_path) -> None:
    src, out = copied(source, tmp_path / "src"), copied(prepared, tmp_path / "out")
    assert "p1" in cases_of(out)
    case_paths(out / "train")[2].unlink()  # the first of the second patient
    (src / "train" / "p1_ct.nii.gz").write_bytes(b"broken")
    assert main(twice(src, out, table)) == 0
    assert notes(out)["p1"]["refused"]
    assert sorted(cases_of(out)) == ["p0", "p2", "p3", "p4"]


def test_another_table_is_refused_but_the_folder_s_own_one(source, tmp_path, capsys) -> None:
    out, given = tmp_path / "out", source / "anatomy.yaml"
    assert main(command("nifti", source, out)) == 0
    before, text = contents(out), given.read_text()
    edited = tmp_path / "edited.yaml"
    for was, now in (("sources: [Leber]", "sources: [Leber, hepar]"), ("[32, 32, 32]", "[32, 32, 40]")):
        assert was in text
        edited.write_text(text.replace(was, now))
        assert main(command("nifti", source, out, anatomy=edited)) == 1
        told = capsys.readouterr().err
        assert f"another than the one {out} was begun with" in told
        assert f"--anatomy {out / 'anatomy.yaml'}" in told
        assert contents(out) == before
    edited.write_text("# nothing but a remark\n" + text.replace("12.0", "12"))
    for same in (edited, out / "anatomy.yaml", given):
        assert main(command("nifti", source, out, anatomy=same)) == 0
        assert contents(out) == before


def test_other_class_names_are_refused(source, prepared, table, tmp_path, capsys) -> None:
    out, classes = copied(prepared, tmp_path / "out"), tmp_path / "names.json"
    held = json.loads((source / "classes.json").read_text())
    classes.write_text(json.dumps(held | {"2": "stomach"}))
    assert main(twice(source, out, table, "--classes", str(classes))) == 1
    assert f"class names of the label ids are others than those {out} was begun with" in capsys.readouterr().err
    assert contents(out) == contents(prepared)
    classes.write_text(json.dumps(dict(reversed(held.items()))))
    assert main(twice(source, out, table, "--classes", str(classes))) == 0
    assert contents(out) == contents(prepared)


def test_a_folder_that_does_not_tell_its_inputs_goes_on(source, prepared, table, tmp_path) -> None:
    out, edited = copied(prepared, tmp_path / "out"), tmp_path / "edited.yaml"
    held = json.loads((out / "prepared.json").read_text())
    (out / "prepared.json").write_text(json.dumps({k: v for k, v in held.items() if not k.endswith("_sha256")}))
    before = contents(out)
    edited.write_text(table.read_text().replace("[Leber]", "[Leber, hepar]"))
    assert main(twice(source, out, edited)) == 0
    assert contents(out) == before


def test_what_made_no_case_may_still_be_mended(source, prepared, table, tmp_path, capsys) -> None:
    out, wrong = tmp_path / "out", tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"1": "gizzard", "2": "crop", "3": "beak"}))
    assert main(command("nifti", source, out, "--augment", "1", "--classes", str(wrong))) == 1
    assert "takes 3 readable training patients, got 0" in capsys.readouterr().err
    assert main(twice(source, out, table)) == 0
    assert contents(out) == contents(prepared)


@pytest.mark.parametrize("anatomy", [TORSO, HEAD_NECK])
def test_a_table_is_told_by_what_it_says(anatomy) -> None:
    assert table_digest(parse_anatomy(anatomy_text(anatomy), "here")) == table_digest(anatomy)
    organ, *others = anatomy.classes[1:]
    changes = [
        {"shape": (64, 128, 128)},
        {"classes": (anatomy.classes[0], replace(organ, sources=("other",)), *others)},
        {"classes": (anatomy.classes[0], replace(organ, tissue_hu=(0.0, 1.0)), *others)},
        {"size_ml": {organ.name: (1.0, 2.0)}},
        {"region_organs": {}},
    ]
    digests = {table_digest(replace(anatomy, **change)) for change in changes}
    assert len(digests | {table_digest(anatomy)}) == len(changes) + 1
