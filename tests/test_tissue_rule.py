"""Tissues of a table: smoothed for stage 2 to draw their detail, and cut out of its CT afterwards."""

import json

import little_patients
import numpy as np
import pytest
import torch
from scipy import ndimage

from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.cli.main import main
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.tissue_rule import loosened, loosened_case, of_ct, with_tissues

SHORT = ["--recipe", "tiny", "--num-steps", "4", "--validate-every", "0", "--device", "cpu"]
SOFT, BONE, CORD = (HEAD_NECK.ids[name] for name in ("soft tissue", "bone", "spinal cord"))
FAT = 4


def ladder() -> np.ndarray:
    """A body with a spine of thin vertebrae, one voxel apart, before a cord."""
    label_map = np.zeros((48, 48, 48), np.uint8)
    label_map[8:40, 8:40] = SOFT
    label_map[20:28, 20:28, ::2] = BONE
    label_map[23:25, 16:18] = CORD
    return label_map


def borders(mask: np.ndarray) -> int:
    return int((mask & ~ndimage.binary_erosion(mask)).sum())


def test_tissues_are_smoothed_and_keep_their_volumes_and_organs_their_place() -> None:
    sharp = ladder()
    loose = loosened(sharp, HEAD_NECK, 6.0)
    assert loose.dtype == np.uint8
    assert np.array_equal(loose == CORD, sharp == CORD)
    assert [int((loose == k).sum()) for k in (0, SOFT, BONE)] == [int((sharp == k).sum()) for k in (0, SOFT, BONE)]
    assert ndimage.label(sharp == BONE)[1] == 24
    assert ndimage.label(loose == BONE)[1] == 1
    assert borders(loose == BONE) < 0.7 * borders(sharp == BONE)


def test_a_wider_smoothing_leaves_less_of_the_detail_and_none_leaves_all() -> None:
    sharp = ladder()
    assert np.array_equal(loosened(sharp, HEAD_NECK, 0.0), sharp)
    same = [float(np.mean(loosened(sharp, HEAD_NECK, width) == sharp)) for width in (3.0, 5.0, 12.0)]
    assert 1 > same[0] > same[1] > same[2]


def test_one_case_in_eight_keeps_its_tissues() -> None:
    sharp = ladder()[:24, :24, :24]
    kept = [loosened_case(sharp, HEAD_NECK, np.random.default_rng(k)) is sharp for k in range(160)]
    assert 8 < sum(kept) < 36


def test_a_table_without_tissues_is_left_alone() -> None:
    label_map = np.random.default_rng(0).integers(0, 21, (8, 8, 8)).astype(np.uint8)
    ct = np.full(label_map.shape, 900, np.int16)
    assert np.array_equal(loosened(label_map, TORSO, 6.0), label_map)
    assert np.array_equal(of_ct(label_map, ct, TORSO), label_map)


def test_tissues_are_cut_out_of_the_ct_by_the_rule_of_the_training_cases() -> None:
    sharp = ladder()
    ct = np.select([sharp == BONE, sharp == SOFT, sharp == CORD], [700, 40, 300], -1000).astype(np.int16)
    assert np.array_equal(with_tissues(np.where(sharp == CORD, CORD, 0).astype(np.uint8), ct, HEAD_NECK), sharp)
    assert np.array_equal(of_ct(loosened(sharp, HEAD_NECK, 6.0), ct, HEAD_NECK), sharp)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`prepared` with a fat class that is cut out by HU, loose slices, and the `model` they make."""
    folder = tmp_path_factory.mktemp("loose")
    little_patients.write_nifti(folder / "src", 4)
    table = folder / "src" / "anatomy.yaml"
    fat = f"  - {{id: {FAT}, name: fat, tissue_hu: [-300, 0]}}\norgans:"
    text = table.read_text().replace("name: two-organs", "name: fatty").replace("organs:", fat)
    table.write_text(text)
    data = str(folder / "prepared")
    assert main(["prepare", "nifti", str(folder / "src"), data, "--anatomy", str(table)]) == 0
    for stage in ("autoencoder", "masks", "slices"):
        more = ["--autoencoder", str(folder / "autoencoder"), "--loose-tissues"] if stage == "slices" else []
        assert main(["train", stage, data, str(folder / stage), *more, *SHORT]) == 0
    assert main(["export", str(folder / "masks"), str(folder / "slices"), str(folder / "model")]) == 0
    return folder


def test_slices_learn_from_loose_tissues_beside_organs_in_their_place(runs, tmp_path) -> None:
    words = ["train", "slices", str(runs / "prepared"), str(tmp_path), "--autoencoder", str(runs / "autoencoder")]
    assert main([*words, *SHORT]) == 0
    sharp, loose = (torch.load(run / "latents.pt", weights_only=True)["labels"] for run in (tmp_path, runs / "slices"))
    assert not torch.equal(sharp, loose)
    for organ in (1, 2, 3):
        assert torch.equal(sharp == organ, loose == organ)
    assert torch.equal((sharp == FAT).sum(), (loose == FAT).sum())


def test_a_case_gets_the_tissues_of_its_ct(runs) -> None:
    pipe = GuideGenPipeline.from_pretrained(runs / "model", device="cpu")
    assert pipe.slice_generator.config.loose_tissues
    (case,) = pipe("The liver and the spleen are normal.", seed=1)
    (draft,) = pipe.draft([case.findings], [case.report], ["a"], [1])
    free = ~np.isin(case.label_map, (1, 2, 3))
    assert np.array_equal(free, ~np.isin(draft.label_map, (1, 2, 3)))
    fat = (case.ct_hu >= -300) & (case.ct_hu < 0)
    assert np.array_equal((case.label_map == FAT)[free], fat[free])
    assert fat[free].any()
    pipe.slice_generator.register_to_config(loose_tissues=False)
    assert np.array_equal(pipe("The liver and the spleen are normal.", seed=1)[0].label_map, draft.label_map)


def test_runs_go_on_with_the_tissues_they_were_begun_with(runs, tmp_path, capsys) -> None:
    data = str(runs / "prepared")
    assert main(["train", "slices", data, str(tmp_path / "next"), "--init", str(runs / "model"), *SHORT]) == 0
    assert json.loads((tmp_path / "next" / "model" / "config.json").read_text())["loose_tissues"] is True
    words = ["train", "slices", data, str(runs / "slices"), "--autoencoder", str(runs / "autoencoder"), *SHORT]
    assert main(words) == 1
    assert "was begun with loose tissues; go on with the same choice" in capsys.readouterr().err


def test_loose_tissues_are_refused_where_there_are_none(runs, tmp_path, capsys) -> None:
    little_patients.write_nifti(tmp_path / "src", 3)
    table = ["--anatomy", str(tmp_path / "src" / "anatomy.yaml")]
    assert main(["prepare", "nifti", str(tmp_path / "src"), str(tmp_path / "prepared"), *table]) == 0
    beside = ["--autoencoder", str(runs / "autoencoder"), "--loose-tissues", *SHORT]
    assert main(["train", "slices", str(tmp_path / "prepared"), str(tmp_path / "run"), *beside]) == 1
    assert "no class of the two-organs table is cut out by HU" in capsys.readouterr().err
    assert main(["train", "masks", str(runs / "prepared"), str(tmp_path / "run"), "--loose-tissues", *SHORT]) == 1
    assert "--loose-tissues is for slices" in capsys.readouterr().err
