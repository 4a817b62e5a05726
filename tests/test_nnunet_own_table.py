"""Fresh cases of a user's own model: what its label table calls a class decides which label it becomes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("nnunetv2")

from guidegen_nnunet.fresh import model_anatomy
from guidegen_nnunet.labels import project

from guidegen_data.anatomy import ANATOMIES, TORSO, Anatomy
from guidegen_data.anatomy_files import write_anatomy
from guidegen_data.errors import AnatomyError


@pytest.fixture
def own() -> Iterator[Anatomy]:
    """A table that no process knows: the torso's, with another word for the spleen."""
    classes = tuple(replace(c, name="milt") if c.name == "spleen" else c for c in TORSO.classes)
    organs = tuple(replace(o, class_name="milt") if o.class_name == "spleen" else o for o in TORSO.organs)
    yield replace(TORSO, name="dutch", classes=classes, organs=organs)
    ANATOMIES.pop("dutch", None)


def write_model(folder: Path, table: Anatomy) -> None:
    """What `model_anatomy` reads of a model folder."""
    folder.mkdir()
    write_anatomy(table, folder / "anatomy.yaml")
    (folder / "model_index.json").write_text(json.dumps({"anatomy_name": table.name}))


def test_fresh_cases_of_a_model_with_a_table_of_its_own_go_to_the_labels_of_its_names(tmp_path, own) -> None:
    write_model(tmp_path / "model", own)
    labels = {"background": 0, "liver": 1, "Milt": 2}
    assert project(model_anatomy(str(tmp_path / "model")), labels, {}).mapped == {"liver": 1, "milt": 2}
    # Where it is known already, as in a trainer that asks twice, it is the same.
    assert model_anatomy(str(tmp_path / "model")).ids == own.ids


def test_a_model_whose_table_has_the_name_of_another_one_is_refused(tmp_path, own) -> None:
    write_model(tmp_path / "model", replace(own, name="torso"))
    with pytest.raises(AnatomyError, match="a table of that name has other classes"):
        model_anatomy(str(tmp_path / "model"))


def test_a_model_without_a_table_beside_it_has_the_one_of_its_name() -> None:
    assert model_anatomy("torso").lesion_class == TORSO.lesion_class
