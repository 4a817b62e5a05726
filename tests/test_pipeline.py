"""The pipeline as its user meets it: one folder, one call, a case a seed, and refusals in a sentence."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline

from guidegen_data.case import Case
from guidegen_data.cleanup import clean_up
from guidegen_data.errors import ModelError
from guidegen_data.models.folder import fingerprint_of
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.reports.findings import Findings, Lesion


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture(scope="module")
def two_cases(folder) -> list[Case]:
    pipe = GuideGenPipeline.from_pretrained(folder, device="cpu")
    findings = [Findings(region="chest"), Findings(phase="arterial")]
    return pipe.generate(findings, ["one.", "two."], ["a", "b"], [5, 6])


def test_a_saved_model_holds_safetensors_only(folder) -> None:
    files = {p.suffix for p in folder.rglob("*") if p.is_file()}
    assert files == {".json", ".safetensors"}


def test_cases_come_paired_on_the_models_grid_in_hu(two_cases: list[Case]) -> None:
    assert [case.key for case in two_cases] == ["a", "b"]
    for case in two_cases:
        assert case.ct_hu.shape == case.label_map.shape == (128, 128, 128)
        assert case.spacing_mm == (3.0, 3.0, 3.0)
        assert case.ct_hu.min() >= -1024
        assert case.ct_hu.max() <= 1976


def test_provenance_tells_how_to_make_the_case_again(folder, two_cases: list[Case]) -> None:
    provenance = two_cases[1].provenance
    assert provenance["model_sha256"] == fingerprint_of(folder)
    assert provenance["seed"] == 6
    assert (provenance["num_steps_mask"], provenance["num_steps_ct"], provenance["guidance"]) == (2, 1, 1.5)


def test_a_draft_completed_later_is_the_case_made_in_one_go(folder, two_cases: list[Case]) -> None:
    pipe = GuideGenPipeline.from_pretrained(folder, device="cpu")
    drafts = pipe.draft([c.findings for c in two_cases], ["one.", "two."], ["a", "b"], [5, 6])
    for whole, draft, late in zip(two_cases, drafts, pipe.complete(drafts), strict=True):
        assert draft.label_map.tobytes() == whole.label_map.tobytes()
        assert draft.volumes_ml() == whole.volumes_ml()
        assert late.ct_hu.tobytes() == whole.ct_hu.tobytes()
        assert late.provenance == whole.provenance
    looks = pipe.complete([drafts[0]] * 2, seeds=[1, 2])
    assert looks[0].label_map.tobytes() == looks[1].label_map.tobytes()
    assert looks[0].ct_hu.tobytes() != looks[1].ct_hu.tobytes()
    assert looks[0].provenance["noise"] != looks[1].provenance["noise"]


def test_the_same_block_and_seeds_give_the_same_bytes(folder, two_cases: list[Case]) -> None:
    pipe = GuideGenPipeline.from_pretrained(folder, device="cpu")
    again = pipe.generate([c.findings for c in two_cases], ["one.", "two."], ["a", "b"], [5, 6])
    for old, new in zip(two_cases, again, strict=True):
        assert old.ct_hu.tobytes() == new.ct_hu.tobytes()
        assert old.label_map.tobytes() == new.label_map.tobytes()
    assert two_cases[0].label_map.tobytes() != two_cases[1].label_map.tobytes()


def test_the_fingerprint_changes_with_any_weight(folder, tmp_path) -> None:
    pipe = tiny_pipeline()
    with torch.no_grad():
        next(pipe.mask_sampler.parameters()).add_(1e-3)
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    assert fingerprint_of(tmp_path) != fingerprint_of(folder)


def test_an_unknown_model_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(ModelError, match="no model 'brain'"):
        GuideGenPipeline.from_pretrained("brain")
    with pytest.raises(ModelError, match=r"model_index\.json"):
        GuideGenPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_weight_file_is_refused_in_a_sentence(folder, tmp_path, damage: str) -> None:
    tiny_pipeline().save_pretrained(tmp_path, safe_serialization=True)
    weights = next((tmp_path / "autoencoder").glob("*.safetensors"))
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cannot be loaded .* copy the folder again"):
        GuideGenPipeline.from_pretrained(tmp_path)


def test_lists_of_different_length_are_refused(folder) -> None:
    pipe = GuideGenPipeline.from_pretrained(folder, device="cpu")
    with pytest.raises(ModelError, match="one entry a case"):
        pipe.generate([Findings()], ["a", "b"], ["a"], [1])


def test_clean_up_gives_specks_to_their_neighbours_and_counts_them() -> None:
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[4:24, 4:24, 4:24] = 3
    labels[10:12, 10:12, 10:12] = 1  # a speck of spleen inside the liver
    cleaned, lost = clean_up(labels, Findings(), (3.0, 3.0, 3.0))
    assert lost == {"spleen": 8}
    assert (cleaned[4:24, 4:24, 4:24] == 3).all()


def test_clean_up_never_removes_a_lesion_that_was_asked_for() -> None:
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[10, 10, 10] = 20
    labels[20:22, 20:22, 20] = 14  # nor the only piece of a fine structure
    asked = Findings(lesions=(Lesion("liver", "left lobe", 8.0),))
    cleaned, lost = clean_up(labels, asked, (3.0, 3.0, 3.0))
    assert lost == {}
    assert np.array_equal(cleaned, labels)


def test_clean_up_removes_stray_lesion_voxels_beyond_what_was_asked_for() -> None:
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[4:10, 4:10, 4:10] = 20
    labels[20, 20, 20] = 20
    asked = Findings(lesions=(Lesion("liver", "left lobe", 20.0),))
    cleaned, lost = clean_up(labels, asked, (3.0, 3.0, 3.0))
    assert lost == {"tumour": 1}
    assert (cleaned == 20).sum() == 216
    assert (clean_up(labels, Findings(), (3.0, 3.0, 3.0))[0] == 20).sum() == 0


def test_a_torchvision_that_does_not_fit_is_named_in_a_sentence(tmp_path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms missing')")
    about = tmp_path / "torchvision-9.9.9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 9.9.9\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", "import guidegen_data.pipeline"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ModelError: torchvision 9.9.9 does not fit torch" in done.stderr
