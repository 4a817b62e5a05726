"""Two models whose label tables share a name and were measured on other patients, in one process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_pipeline

from guidegen_data.anatomy import ANATOMIES, TORSO, Anatomy, anatomy_named
from guidegen_data.anatomy_files import register, write_anatomy
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.quality import verdict_before_ct
from guidegen_data.reports.findings import Findings

ASKED = {"region": "abdomen", "organs": {"liver": "enlarged"}}


def table(name: str, least_ml: float) -> Anatomy:
    """The torso's, of patients whose livers have at least so much."""
    return replace(TORSO, name=name, size_ml={"liver": (least_ml, 2 * least_ml)})


def model(folder: Path, own: Anatomy | None = None) -> GuideGenPipeline:
    pipe = tiny_pipeline()
    if own is not None:
        pipe.register_to_config(anatomy_name=own.name)
    pipe.save_pretrained(folder, safe_serialization=True)
    if own is not None:
        write_anatomy(own, folder / "anatomy.yaml")
    return GuideGenPipeline.from_pretrained(folder, device="cpu")


def asked_of(pipe: GuideGenPipeline) -> Findings:
    return Findings(**ASKED, anatomy_name=pipe.anatomy.name)


def bounds_ml(pipe: GuideGenPipeline) -> tuple[float, float]:
    """Between what the pipeline holds the volume of a liver that is said to be enlarged."""
    asked = Findings(**ASKED, anatomy_name=pipe.config.anatomy_name)
    ((bound,),) = pipe.constraints([asked])["volumes"]
    voxel_ml = float(np.prod(TORSO.field_mm)) / 1000 / float(np.prod(pipe.mask_sampler.config.shape))
    return bound.least * voxel_ml, bound.most * voxel_ml


@pytest.fixture
def own_name(monkeypatch) -> str:
    monkeypatch.setitem(ANATOMIES, "mine", TORSO)  # so that the name is gone again after the test
    del ANATOMIES["mine"]
    return "mine"


def test_each_of_two_models_is_at_work_with_its_own_measures(tmp_path, own_name) -> None:
    first = model(tmp_path / "first", table(own_name, 300.0))
    alone = bounds_ml(first)
    second = model(tmp_path / "second", table(own_name, 3000.0))
    for _ in range(2):
        assert bounds_ml(first) == alone
        assert bounds_ml(second) == pytest.approx([10 * ml for ml in alone])
    register(table(own_name, 50.0))  # as of shards that an earlier model made, or of data that is prepared
    assert bounds_ml(first) == alone
    assert asked_of(first).anatomy.size_ml == {"liver": (300.0, 600.0)}
    assert asked_of(second).anatomy.size_ml == {"liver": (3000.0, 6000.0)}


def test_a_draft_is_drawn_and_judged_by_the_table_of_its_model(tmp_path, own_name) -> None:
    pipe = model(tmp_path / "model", table(own_name, 300.0))
    findings = asked_of(pipe)
    (alone,) = pipe.draft([findings], ["."], ["case"], [0])
    judged = verdict_before_ct(alone)
    register(table(own_name, 3000.0))
    assert verdict_before_ct(alone) != judged
    (draft,) = pipe.draft([findings], ["."], ["case"], [0])
    assert np.array_equal(draft.label_map, alone.label_map)
    assert verdict_before_ct(draft) == judged


def test_a_model_without_a_table_of_its_own_has_the_one_that_comes_with_us(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(ANATOMIES, "torso", TORSO)
    pipe = model(tmp_path / "plain")
    other = model(tmp_path / "other", table("torso", 3000.0))
    assert anatomy_named("torso").size_ml == {"liver": (3000.0, 6000.0)}
    assert pipe.anatomy is TORSO
    assert Findings(**ASKED).anatomy is TORSO
    assert other.anatomy.size_ml == {"liver": (3000.0, 6000.0)}
    assert Findings(**ASKED).anatomy is other.anatomy
