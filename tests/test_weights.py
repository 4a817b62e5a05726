"""The models that come installed: small, half precision, each with a card, and each does what its reports say."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from guidegen_data.anatomy import anatomy_named
from guidegen_data.models.folder import model_folder
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.quality import organ_volumes_ml
from guidegen_data.reports.abstraction import abstract_report

NAMES = ["head-neck", "torso"]


def test_these_models_are_installed_and_small_together() -> None:
    folders = [model_folder(name) for name in NAMES]
    assert sorted(p.name for p in folders[0].parent.iterdir() if p.is_dir()) == NAMES
    assert sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file()) < 60e6


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_safetensors_in_half_precision(name: str) -> None:
    files = sorted(model_folder(name).rglob("*.safetensors"))
    assert len(files) == {"head-neck": 4, "torso": 5}[name]
    for path in files:
        with safe_open(path, "pt") as held:
            assert {held.get_slice(k).get_dtype() for k in held.keys()} <= {"F16", "I64"}, path.parent.name  # noqa: SIM118
    assert not [p for p in model_folder(name).rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


@pytest.mark.parametrize("name", NAMES)
def test_every_card_tells_data_licences_training_figures_and_limits(name: str) -> None:
    card = (model_folder(name) / "README.md").read_text()
    for heading in ("## Data", "## Training", "## Figures", "## Limits"):
        assert heading in card
    assert "icence" in card
    for config in model_folder(name).rglob("*.json"):
        assert "_name_or_path" not in json.loads(config.read_text()), config.parent.name


def test_the_head_neck_model_puts_targets_on_the_side_that_the_report_says() -> None:
    pipe = GuideGenPipeline.from_pretrained("head-neck", device="cpu")
    texts = [f"CT neck with contrast. 60 mm tumour in the {side} hemineck, middle third." for side in ("right", "left")]
    asked = [abstract_report(text, pipe.anatomy).findings for text in texts]
    drafts = pipe.draft(asked, texts, ["a", "b"], [3, 4])
    for draft, sign in zip(drafts, (1, -1), strict=True):
        target = np.argwhere(draft.label_map == pipe.anatomy.lesion_id)
        assert len(target) > 100
        # RAS+: x grows to the patient's right.
        x_mm = target[:, 0].mean() * draft.affine[0, 0] + draft.affine[0, 3]
        assert np.sign(x_mm) == sign
        volumes = organ_volumes_ml(draft)
        assert volumes["spinal cord"] > 2
        assert volumes["right parotid"] > 2


def test_the_tables_of_installed_models_are_known_by_name() -> None:
    assert anatomy_named("head-neck").spacing_mm == (2.5, 2.5, 2.5)
    assert Path(model_folder("head-neck") / "anatomy.yaml").is_file()
