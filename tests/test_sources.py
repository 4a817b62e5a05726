"""Training cases: read from real files, deformed, and described by findings that the label map bears out."""

import json
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from guidegen_data import lesions
from guidegen_data.anatomy import TORSO
from guidegen_data.errors import SourceError
from guidegen_data.reports.findings import Findings
from guidegen_data.sites import site_mask
from guidegen_data.sources import contrast, warp
from guidegen_data.sources.augment import Augmenter, TrainingCase
from guidegen_data.sources.bases import find_bases, read_base, read_classes
from guidegen_data.sources.prepared import PrepareConfig, case_paths, load_case, prepare, save_case
from guidegen_data.sources.volumes import Volume, body_mask, read_ct, resample_ct, resample_labels

CLASSES = {
    1: "spleen",
    2: "kidney_right",
    3: "kidney_left",
    4: "gallbladder",
    5: "liver",
    27: "vertebrae_L5",
    25: "sacrum",
}
ORGANS_MM = {  # source id -> centre and semi-axes in mm of an ellipsoid, x to the patient's right
    5: ((75, 10, 60), (65, 55, 60)),
    1: ((-90, -30, 80), (30, 35, 40)),
    2: ((55, -55, -20), (22, 22, 45)),
    3: ((-55, -55, -10), (22, 22, 45)),
    4: ((50, 50, 10), (14, 14, 25)),
    27: ((0, -60, 0), (20, 20, 170)),
    25: ((0, -70, -175), (25, 15, 15)),
}
SPACING = (4.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small abdomen of ellipsoids as a CT and its label map, 400 mm tall, with the class names of its ids."""
    path = tmp_path_factory.mktemp("real")
    shape = (90, 75, 100)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, SPACING, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    labels = np.zeros(shape, np.uint8)
    ct = np.where((x / 165) ** 2 + (y / 125) ** 2 < 1, -90, -1000).astype(np.float32)
    for source_id, (centre, semi) in ORGANS_MM.items():
        inside = sum(((a - c) / s) ** 2 for a, c, s in zip((x, y, z), centre, semi, strict=True)) < 1
        labels[inside] = source_id
        ct[inside] = 250 if source_id in (25, 27) else 50
    ct += np.random.default_rng(0).normal(0, 8, shape)
    affine = np.diag([*SPACING, 1.0])
    nib.save(nib.Nifti1Image(ct.astype(np.int16), affine), path / "body_ct.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), path / "body_label.nii.gz")
    (path / "classes.json").write_text(json.dumps(CLASSES))
    return path


@pytest.fixture(scope="module")
def base(folder):
    ct, label = find_bases(folder)["body"]
    return read_base("body", ct, label, read_classes(folder / "classes.json"))


@pytest.fixture(scope="module")
def cases(base) -> list[TrainingCase]:
    augmenter = Augmenter(base)
    return [augmenter.make(np.random.default_rng(seed)) for seed in range(8)]


def test_source_classes_are_merged_by_name_and_the_rest_is_reported(base) -> None:
    assert base.unmapped == ("sacrum",)
    assert set(np.unique(base.labels)) == {0, 1, 2, 3, 12, 19}
    assert base.bone[base.labels == 12].all()


def test_a_case_depends_on_its_seed_alone(base) -> None:
    one, two = (Augmenter(base).make(np.random.default_rng(7)) for _ in range(2))
    other = Augmenter(base).make(np.random.default_rng(8))
    assert np.array_equal(one.label_map, two.label_map)
    assert np.array_equal(one.ct_hu, two.ct_hu)
    assert one.findings == two.findings
    assert not np.array_equal(one.label_map, other.label_map)


def test_an_organ_that_the_class_file_has_not_is_never_called_absent(folder) -> None:
    def absent(classes: dict[int, str]) -> set[str]:
        augmenter = Augmenter(read_base("body", *find_bases(folder)["body"], classes))
        made = [augmenter.make(np.random.default_rng(seed)).findings.organs for seed in range(6)]
        return {organ for organs in made for organ, status in organs.items() if status == "absent"}

    unlabelled = CLASSES | {4: "sacrum"}
    named = unlabelled | {90: "gallbladder"}
    assert "gallbladder" in absent(named)  # it would be labelled, and no voxel is
    assert "gallbladder" not in absent(unlabelled)


def test_findings_say_what_the_label_map_shows(cases: list[TrainingCase]) -> None:
    absent = [(c, o) for c in cases for o, s in c.findings.organs.items() if s == "absent"]
    lesions_told = [(c, lesion) for c in cases for lesion in c.findings.lesions]
    assert absent
    assert lesions_told
    for case, organ in absent:
        assert site_mask(case.label_map, TORSO.spacing_mm, organ, "").sum() < 40
    for case in cases:
        assert ((case.label_map == TORSO.lesion_id).sum() > 0) == bool(case.findings.lesions)
    for case, lesion in lesions_told:
        if len(case.findings.lesions) == 1:
            measured = lesions.longest_diameter_mm(case.label_map == TORSO.lesion_id, TORSO.spacing_mm)
            assert measured == pytest.approx(lesion.size_mm, abs=1.0)


def test_an_enlarged_organ_is_larger_than_a_small_one(base) -> None:
    augmenter = Augmenter(base)
    volumes = {}
    for status in ("enlarged", "normal", "small"):
        pose = warp.Pose((180.0, 150.0, 200.0), (1.0, 1.0, 1.0))
        points = augmenter._points(pose, {"liver": status}, np.random.default_rng(0))
        volumes[status] = int((warp.sample_labels(base.labels, points, base.spacing_mm) == 3).sum())
    assert volumes["enlarged"] > 1.3 * volumes["normal"]
    assert volumes["small"] < 0.75 * volumes["normal"]


def test_contrast_moves_organs_and_leaves_bone(base) -> None:
    rng = np.random.default_rng(0)
    portal = contrast.change_phase(base.ct_hu, base.labels, base.bone, "portal venous", rng)
    core = base.labels == 3
    assert portal[core].mean() == pytest.approx(112, rel=0.4)
    assert portal[core].mean() > base.ct_hu[core].mean() + 25
    assert abs(portal[base.labels == 12].mean() - base.ct_hu[base.labels == 12].mean()) < 5


def test_a_removed_organ_becomes_fat(base) -> None:
    gone = base.labels == 1
    ct = contrast.paint_removed(base.ct_hu, gone, np.random.default_rng(0))
    assert ct[gone].mean() == pytest.approx(-95, abs=12)
    assert np.array_equal(ct[base.labels == 3], base.ct_hu[base.labels == 3])


def test_a_lesion_has_about_the_asked_size_and_stays_in_its_organ() -> None:
    allowed = np.zeros((64, 64, 64), bool)
    allowed[10:54, 10:54, 10:54] = True
    for seed in range(5):
        mask = lesions.lesion_mask(allowed, 40.0, (3.0, 3.0, 3.0), np.random.default_rng(seed))
        assert mask is not None
        assert lesions.longest_diameter_mm(mask, (3.0, 3.0, 3.0)) == pytest.approx(40, rel=0.3)
        assert (mask & allowed).sum() >= 0.6 * mask.sum()


def test_a_lesion_that_fits_nowhere_is_not_made() -> None:
    sliver = np.zeros((32, 32, 32), bool)
    sliver[16, 16, :] = True
    assert lesions.lesion_mask(sliver, 60.0, (3.0, 3.0, 3.0), np.random.default_rng(0)) is None


def test_the_longest_diameter_of_a_box_is_its_diagonal() -> None:
    box = np.zeros((20, 20, 20), bool)
    box[2:6, 2:6, 2:6] = True
    expected = 3 + 3 * 3 * np.sqrt(3)
    assert lesions.longest_diameter_mm(box, (3.0, 3.0, 3.0)) == pytest.approx(expected)
    assert lesions.longest_diameter_mm(np.zeros((3, 3, 3), bool), (1.0, 1.0, 1.0)) == 0


def test_sampling_at_the_base_grid_gives_the_base_back(base) -> None:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in base.labels.shape], indexing="ij")).astype(np.float32)
    points = index * np.asarray(base.spacing_mm, np.float32)[:, None, None, None]
    assert np.array_equal(warp.sample_labels(base.labels, points, base.spacing_mm), base.labels)


def test_preparing_resumes_and_gives_the_same_cases(folder, tmp_path) -> None:
    config = PrepareConfig("real", num=3, seed=4)
    assert list(prepare(folder, tmp_path / "a", config)) == [0, 1, 2]
    first = [p.read_bytes() for p in case_paths(tmp_path / "a")]
    case_paths(tmp_path / "a")[1].unlink()
    assert list(prepare(folder, tmp_path / "a", config)) == [0, 1, 2]
    again = [load_case(p) for p in case_paths(tmp_path / "a")]
    assert len(first) == len(again) == 3
    assert next(p.read_bytes() for p in case_paths(tmp_path / "a")) == first[0]
    with pytest.raises(SourceError, match="another configuration"):
        next(prepare(folder, tmp_path / "a", PrepareConfig("real", num=3, seed=5)))


def test_deformed_cases_are_gone_on_with_from_the_same_volumes_and_names_only(folder, tmp_path) -> None:
    source, out, names = tmp_path / "source", tmp_path / "out", tmp_path / "names.json"
    shutil.copytree(folder, source)
    config = PrepareConfig("real", num=2, seed=4)
    assert list(prepare(source, out, config)) == [0, 1]
    held = {p.name: p.read_bytes() for p in out.iterdir()}
    names.write_text(json.dumps(CLASSES | {6: "stomach"}))
    for file, told in (("new_label.nii.gz", "(new: new)"), ("body_ct.nii.gz", "(CT new or gone: body)")):
        path = source / file
        moved = path.replace(tmp_path / file) if path.exists() else path.touch()
        with pytest.raises(SourceError, match=re.escape(f"others than those {out} was begun with {told}")):
            next(prepare(source, out, replace(config, num=3)))
        path.unlink() if moved is None else moved.replace(path)
    with pytest.raises(SourceError, match="class names of the label ids are others"):
        next(prepare(source, out, config, names))
    with pytest.raises(SourceError, match=r"case-000001\.npz, which --num 1 does not reach"):
        next(prepare(source, out, replace(config, num=1)))
    assert {p.name: p.read_bytes() for p in out.iterdir()} == held
    (source / "more_ct.nii.gz").touch()  # without labels, of which no case is made
    assert list(prepare(source, out, replace(config, num=3))) == [0, 1, 2]


def test_deformed_cases_of_an_earlier_version_are_gone_on_with(folder, tmp_path) -> None:
    config, path = PrepareConfig("real", num=1, seed=4), tmp_path / "prepared.json"
    assert list(prepare(folder, tmp_path, config)) == [0]
    held = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("classes_sha256", "bases")}
    assert len(held) == 6
    path.write_text(json.dumps(held))
    (tmp_path / "names.json").write_text(json.dumps(CLASSES | {6: "stomach"}))
    assert list(prepare(folder, tmp_path, config, tmp_path / "names.json")) == [0]
    assert json.loads(path.read_text()) == held


def test_a_prepared_case_is_read_back_whole_and_a_damaged_one_refused(tmp_path, cases) -> None:
    path = tmp_path / "case-000000.npz"
    save_case(path, cases[0])
    back = load_case(path)
    assert np.array_equal(back.label_map, cases[0].label_map)
    assert back.findings == cases[0].findings
    assert np.abs(back.ct_hu - np.clip(cases[0].ct_hu, -1024, 3071)).max() <= 0.5
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SourceError, match="run the same prepare command again"):
        load_case(path)


def test_a_ct_without_hu_is_refused(tmp_path) -> None:
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9)).astype(np.float32), np.eye(4)), tmp_path / "x.nii"
    )
    with pytest.raises(SourceError, match="does not look like HU"):
        read_ct(tmp_path / "x.nii")


def test_a_ct_and_labels_of_different_grids_are_refused(folder, tmp_path) -> None:
    ct, _ = find_bases(folder)["body"]
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "body_label.nii.gz")
    with pytest.raises(SourceError, match="must share one grid"):
        read_base("body", ct, tmp_path / "body_label.nii.gz", CLASSES)


def test_a_truncated_or_missing_volume_is_refused(folder, tmp_path) -> None:
    ct, _ = find_bases(folder)["body"]
    cut = tmp_path / "cut_ct.nii.gz"
    cut.write_bytes(ct.read_bytes()[:5000])
    with pytest.raises(SourceError, match="no readable NIfTI"):
        read_ct(cut)
    with pytest.raises(SourceError, match="no file"):
        read_ct(tmp_path / "none.nii.gz")


def test_label_ids_without_a_name_are_refused(folder) -> None:
    ct, label = find_bases(folder)["body"]
    with pytest.raises(SourceError, match="does not name"):
        read_base("body", ct, label, {5: "liver"})


def test_resampling_keeps_volumes_and_means(base) -> None:
    labels = resample_labels(Volume(base.labels, base.spacing_mm), (3.0, 3.0, 3.0))
    before = (base.labels == 3).sum() * 64
    assert (labels.array == 3).sum() * 27 == pytest.approx(before, rel=0.03)
    ct = resample_ct(Volume(base.ct_hu, base.spacing_mm), (3.0, 3.0, 3.0))
    assert ct.array.mean() == pytest.approx(base.ct_hu.mean(), abs=5)


def test_the_body_is_found_without_the_table() -> None:
    ct = np.full((60, 60, 8), -1000.0, np.float32)
    ct[15:45, 20:50] = 40
    ct[25:35, 30:40] = -800  # lung inside
    ct[5:55, 8:10] = 100  # table
    body = body_mask(ct)
    assert body[30, 35].all()
    assert not body[30, 8].any()


def test_a_lesion_in_an_absent_organ_cannot_be_described() -> None:
    with pytest.raises(ValueError, match="absent"):
        Findings.from_dict(
            {"organs": {"spleen": "absent"}, "lesions": [{"organ": "spleen", "site": "", "size_mm": 20}]}
        )
