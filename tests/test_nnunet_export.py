"""Shards and a real data set become one nnU-Net data set; what does not fit is refused."""

import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from nnunet_support.command import run_command
from nnunet_support.toy_data import write_real

from guidegen_data import GuideGenError, ShardReader

pytest.importorskip("nnunetv2")
pytest_plugins = ["nnunet_support.world"]

from guidegen_nnunet.convert import export  # noqa: E402
from guidegen_nnunet.folders import NnUNetError, find_dataset, read_raw_dataset  # noqa: E402
from guidegen_nnunet.install import torchvision_problem, trainers_folder  # noqa: E402
from guidegen_nnunet.splits import read_folds, real_folds, with_synthetic  # noqa: E402

# -- conversion


def test_export_keeps_real_cases_byte_for_byte_and_names_synthetic_ones(world, merged):
    real, both = read_raw_dataset(world / "raw" / "Dataset901_Toy"), read_raw_dataset(merged)
    assert both.real_ids == real.real_ids
    assert both.synthetic_ids == [f"guidegen_{i:09d}" for i in range(4)]
    for identifier, pair in real.cases.items():
        assert [p.read_bytes() for p in both.cases[identifier]] == [p.read_bytes() for p in pair]
    assert both.dataset_json["labels"] == real.dataset_json["labels"]
    assert both.dataset_json["numTraining"] == 9
    record = json.loads((merged / "guidegen_synthetic.json").read_text())
    assert record["cases"]["guidegen_000000003"] == {"shard": "shard-000001.tar", "key": "s000000003"}


def test_a_synthetic_case_is_stored_in_the_orientation_of_the_real_ones_and_stays_where_it_was(world, merged):
    case = ShardReader(world / "shards")[0]
    image = nib.load(merged / "imagesTr" / "guidegen_000000000_0000.nii.gz")
    label = nib.load(merged / "labelsTr" / "guidegen_000000000.nii.gz")
    assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(label.affine) == ("L", "A", "S")
    back = nib.as_closest_canonical(image)
    np.testing.assert_allclose(back.affine, case.affine)
    np.testing.assert_array_equal(np.asarray(back.dataobj), case.ct_hu)
    theirs = np.asarray(nib.as_closest_canonical(label).dataobj)
    for our_id, their_id in ((3, 1), (1, 2)):
        np.testing.assert_array_equal(theirs == their_id, case.label_map == our_id)
    assert set(np.unique(theirs)) == {0, 1, 2}


def test_what_is_lost_in_projection_is_said(world, merged, capsys):
    run_command("export", world / "shards", "--real", "901", "--id", 902, "--name", "Mix")
    said = capsys.readouterr().err
    assert "become background: kidney" in said
    assert "no synthetic case has in full: prostate" in said


def test_an_export_of_an_unfinished_shard_folder_says_how_many_cases_it_lacks(world, tmp_path, capsys):
    shards = tmp_path / "shards"
    shutil.copytree(world / "shards", shards)
    index = json.loads((shards / "index.json").read_text())
    for number, planned in enumerate((7, 4)):
        (shards / "index.json").write_text(json.dumps(index | {"num_planned": planned}))
        assert run_command("export", shards, "--id", 907 + number, "--name", "Begun") == 0
        said = capsys.readouterr().err
        assert said.count("note: ") == said.count("exported 4 of its 7 cases") == (1 if planned == 7 else 0)


def test_what_is_dropped_is_recorded_as_dropped(world):
    words = ("export", world / "shards", "--real", "901", "--id", 906, "--name", "Dropped")
    assert run_command(*words, "--label-map", "tumour=") == 0
    record = json.loads((world / "raw" / "Dataset906_Dropped" / "guidegen_synthetic.json").read_text())
    assert record["label_of_class"] == {"tumour": 0, "spleen": 2, "liver": 1}


def test_the_same_export_again_changes_nothing_and_another_one_is_refused(world, merged):
    before = {p: p.stat().st_mtime_ns for p in merged.rglob("*")}
    assert run_command("export", world / "shards", "--real", "901", "--id", 902, "--name", "Mix") == 0
    assert {p: p.stat().st_mtime_ns for p in merged.rglob("*")} == before
    with pytest.raises(NnUNetError, match="is there already"):
        run_command(
            "export", world / "shards", "--real", "901", "--id", 902, "--name", "Mix", "--label-map", "kidney=prostate"
        )


def test_an_export_after_the_real_data_changed_is_refused_and_the_copy_stays(world):
    real = world / "raw" / "Dataset920_Changing"
    write_real(real)
    words = ("export", world / "shards", "--real", "920", "--id", 921, "--name", "Changed")
    assert run_command(*words) == 0
    copy = world / "raw" / "Dataset921_Changed"
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    label = real / "labelsTr" / "patient_3.nii.gz"
    image = nib.load(label)
    label.unlink()  # a new file, as an editor writes it
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), label)
    with pytest.raises(NnUNetError, match=r"is there already .* \(other: real_files\)"):
        run_command(*words)
    shutil.rmtree(real)
    write_real(real, num_cases=6)
    with pytest.raises(NnUNetError, match=r"\(other: real_files, real_folds\)"):
        run_command(*words)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    # Folds of one's own decide what is trained on.
    shutil.rmtree(copy)
    assert run_command(*words) == 0
    (real / "splits_final.json").write_text(json.dumps([{"train": ["patient_1"], "val": ["patient_0"]}]))
    with pytest.raises(NnUNetError, match=r"\(other: real_folds\)"):
        run_command(*words)


def test_an_interrupted_export_is_begun_anew_where_the_real_data_changed_meanwhile(world, monkeypatch):
    from guidegen_nnunet import convert

    real = world / "raw" / "Dataset922_Moving"
    write_real(real)
    words = ("export", world / "shards", "--real", "922", "--id", 923, "--name", "Moved")

    def stop(*arguments: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(convert, "_save", stop)
        with pytest.raises(OSError, match="no space"):
            run_command(*words)
    label = real / "labelsTr" / "patient_0.nii.gz"
    other = (real / "labelsTr" / "patient_1.nii.gz").read_bytes()
    label.unlink()
    label.write_bytes(other)
    assert run_command(*words) == 0
    assert (world / "raw" / "Dataset923_Moved" / "labelsTr" / "patient_0.nii.gz").read_bytes() == other


def test_a_data_set_of_a_version_that_did_not_note_the_real_files_is_not_exported_over(world, merged):
    old = world / "raw" / "Dataset924_Old"
    words = ("export", world / "shards", "--real", "901", "--id", 924, "--name", "Old")
    assert run_command(*words) == 0
    record = json.loads((old / "guidegen_synthetic.json").read_text())
    kept = {name: value for name, value in record.items() if name not in ("real_files", "real_folds")}
    (old / "guidegen_synthetic.json").write_text(json.dumps(kept))
    with pytest.raises(NnUNetError, match=r"did not note the state of the real files.* train with it as it is"):
        run_command(*words)


def test_an_interrupted_export_leaves_no_data_set_and_is_completed_by_the_same_command(world, monkeypatch):
    from guidegen_nnunet import convert

    save, calls = convert._save, []

    def stop_after_three(array, affine, codes, path):
        if len(calls) == 3:
            raise OSError("no space left on device")
        calls.append(path.name)
        save(array, affine, codes, path)

    monkeypatch.setattr(convert, "_save", stop_after_three)
    arguments = ("export", world / "shards", "--id", 903, "--name", "Synthetic")
    with pytest.raises(OSError, match="no space"):
        run_command(*arguments)
    assert not list((world / "raw").glob("Dataset903*"))
    calls.clear()
    monkeypatch.setattr(convert, "_save", lambda *a: (calls.append(a[3].name), save(*a)))
    assert run_command(*arguments) == 0
    assert sorted(calls) == sorted(
        f"guidegen_00000000{i}{end}" for i in (1, 2, 3) for end in ("_0000.nii.gz", ".nii.gz")
    )
    dataset = read_raw_dataset(world / "raw" / "Dataset903_Synthetic")
    assert len(dataset.synthetic_ids) == 4
    assert not [p for p in dataset.folder.rglob(".*")]
    with pytest.raises(NnUNetError, match="plans are made from real cases only"):
        run_command("plan", 903)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channel_names": {"0": "T1"}}, "one channel 'CT'"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "one channel 'CT'"),
        ({"numTraining": 6}, "numTraining 6"),
        ({"labels": {"background": 0, "prostate": 1}}, "share no label"),
        ({"labels": {"background": 0, "liver": 1, "Liver ": 2}}, "differ in case or spaces only"),
        ({"file_ending": ".nrrd"}, "numTraining"),
    ],
)
def test_a_real_data_set_that_does_not_fit_is_refused(world, tmp_path, change, sentence):
    write_real(tmp_path / "Dataset904_Bad", num_cases=1)
    description = json.loads((tmp_path / "Dataset904_Bad" / "dataset.json").read_text()) | change
    (tmp_path / "Dataset904_Bad" / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(NnUNetError, match=sentence):
        export(world / "shards", tmp_path / "Dataset904_Bad", 905, "Mix", {})
    assert not list((world / "raw").glob("*905*"))


def test_a_number_that_is_taken_and_a_real_set_with_synthetic_cases_are_refused(world, merged):
    with pytest.raises(NnUNetError, match="number 901 is taken"):
        run_command("export", world / "shards", "--real", "901", "--id", 901, "--name", "Mix")
    with pytest.raises(NnUNetError, match="real cases only"):
        run_command("export", world / "shards", "--real", "902", "--id", 905, "--name", "Mix")
    with pytest.raises(GuideGenError, match=r"index\.json"):
        run_command("export", world / "raw", "--real", "901", "--id", 905, "--name", "Mix")


def test_a_data_set_is_found_by_number_name_or_path_and_one_that_lies_elsewhere_is_refused(
    world, tmp_path, monkeypatch
):
    toy = world / "raw" / "Dataset901_Toy"
    monkeypatch.chdir(world)
    for given in ("901", "Dataset901_Toy", str(toy), f"{toy}/", "raw/Dataset901_Toy"):
        assert find_dataset(given) == toy
    shutil.copytree(toy, tmp_path / "Dataset901_Toy")
    with pytest.raises(NnUNetError, match=r"got the path '.*'; give its name or number, or set nnUNet_raw to"):
        run_command("export", world / "shards", "--real", tmp_path / "Dataset901_Toy", "--id", 905, "--name", "Mix")
    with pytest.raises(NnUNetError, match="got the path"):
        run_command("plan", tmp_path / "Dataset901_Toy")
    with pytest.raises(NnUNetError, match="found none; name one of them"):
        find_dataset("Dataset9*")


# -- folds


def test_the_folds_are_those_of_the_real_data_with_all_synthetic_cases_to_train(world, merged):
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    baseline = generate_crossval_split([f"patient_{i}" for i in range(5)], seed=12345, n_splits=5)
    synthetic = [f"guidegen_{i:09d}" for i in range(4)]
    folds = read_folds(merged / "splits_final.json")
    assert len(folds) == 5
    for fold, expected in zip(folds, baseline, strict=True):
        assert fold["val"] == list(expected["val"])
        assert fold["train"] == [*expected["train"], *synthetic]


def test_the_real_data_sets_own_folds_are_kept(world):
    own = [{"train": ["patient_1", "patient_2"], "val": ["patient_0"]}]
    place, raw = world / "preprocessed" / "Dataset911_Own", world / "raw" / "Dataset911_Own"
    place.mkdir()
    (place / "splits_final.json").write_text(json.dumps(own))
    assert real_folds([f"patient_{i}" for i in range(5)], raw) == own
    with pytest.raises(NnUNetError, match="names cases that"):
        real_folds(["patient_0", "patient_1"], raw)
    with pytest.raises(NnUNetError, match="at least 5 real cases"):
        real_folds(["patient_0"], world / "raw" / "Dataset912_Other")


def test_folds_that_validate_on_synthetic_cases_are_refused(tmp_path):
    folds = with_synthetic([{"train": ["a"], "val": ["b"]}], ["guidegen_000000000"])
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    assert read_folds(tmp_path / "splits_final.json") == folds
    folds[0]["val"].append("guidegen_000000000")
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    with pytest.raises(NnUNetError, match="validates on 1 synthetic"):
        read_folds(tmp_path / "splits_final.json")


# -- installation


def test_install_writes_its_line_once_and_keeps_other_folders(tmp_path, capsys):
    file = tmp_path / "profile"
    file.write_text("true")
    for _ in range(2):
        assert run_command("install", "--write", file) == 0
    assert run_command("install") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert file.read_text() == f"true\n{line}\n"
    for before, expected in (("", [trainers_folder()]), ("/other", [trainers_folder(), "/other"])):
        shell = subprocess.run(
            ["sh", "-c", f'. {file}; printf %s "$nnUNet_extTrainer"'],
            env={"nnUNet_extTrainer": before} if before else {},
            capture_output=True,
            text=True,
            check=True,
        )
        assert shell.stdout.split(os.pathsep) == [str(p) for p in expected]
    assert [p.name for p in trainers_folder().glob("*.py")] == ["nnUNetTrainerGuideGen.py"]


def test_a_torchvision_that_cannot_be_imported_is_answered_with_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    problem = torchvision_problem()
    assert problem is not None
    assert "belongs to torch" in problem
    assert "pip install" in problem
