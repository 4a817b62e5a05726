"""Which of our classes becomes which label of an nnU-Net data set, what is said of it, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidegen_data import HEAD_NECK, TORSO, Anatomy, GuideGenError, label_set
from guidegen_data.anatomy import FindingOrgan, OrganClass
from guidegen_data.label_maps import Projection, normalised

pytest.importorskip("nnunetv2")

from guidegen_nnunet.folders import NnUNetError
from guidegen_nnunet.labels import parse_label_map, project

NAMES = st.lists(st.sampled_from(["liver", "spleen", "small bowel", "aorta", "colon", "rib"]), min_size=1, unique=True)


def table(*names: str, organs: tuple[FindingOrgan, ...] = ()) -> Anatomy:
    """A label table of these classes and a tumour."""
    classes = [OrganClass(i, n, (), (0, 1), (0, 1), (0, 0, 0)) for i, n in enumerate(("background", *names, "tumour"))]
    return Anatomy("made up", tuple(classes), organs, ())


@given(NAMES, NAMES, st.randoms())
def test_projection_by_name_keeps_shared_names_and_sends_the_rest_to_background(ours, theirs, random):
    spell = random.choice([str.upper, str.title, lambda n: n.replace(" ", "_")])
    anatomy = table(*ours)
    labels = {"background": 0} | {spell(n): i for i, n in enumerate(theirs, 1)}
    shared = set(ours) & set(theirs)
    if not shared:
        with pytest.raises(NnUNetError, match="share no label"):
            project(anatomy, labels, {})
        return
    result = project(anatomy, labels, {})
    projected = result(np.arange(len(ours) + 1, dtype=np.uint8).reshape(-1, 1, 1), (1, 1, 1)).ravel()
    for name in ours:
        assert projected[anatomy.id_of(name)] == (labels[spell(name)] if name in shared else 0)
    assert {normalised(n) for n in result.never_synthetic} == set(theirs) - shared
    assert set(result.projection.dropped) == set(ours) - shared


LABELS = {"background": 0, "liver": 1, "bowel": 2, "whole": [1, 2]}
TABLE = table("liver", "small bowel", organs=(FindingOrgan("liver", "liver", sites=("",)),))


def test_a_label_map_renames_drops_and_merges_when_every_merged_class_is_named():
    assert project(TABLE, LABELS, {"Small_Bowel": "bowel", "liver": None}).mapped == {"small bowel": 2, "liver": 0}
    assert project(TABLE, LABELS, {"tumour": "liver", "liver": 1}).mapped == {"liver": 1, "tumour": 1}


def test_sides_and_tumours_find_labels_of_their_own_names():
    labels = {"background": 0, "kidney_right": 1, "Left Kidney": 2, "Liver": 3, "liver_tumour": 4}
    assert project(TORSO, labels, {}).mapped == {"right kidney": 1, "left kidney": 2, "liver": 3, "liver tumour": 4}
    said = project(TORSO, {"background": 0, "liver": 1}, {}).notices()
    assert any("counts as the organ it grew in" in notice for notice in said)


def test_a_public_label_set_is_a_label_map():
    labels = {"background": 0} | {name: i for name, i in label_set("amos").labels.items()}
    mapped = project(TORSO, labels, parse_label_map("amos")).mapped
    assert mapped == label_set("amos").projection().ids
    split = {"background": 0} | dict(label_set("totalsegmentator_v2").labels)
    with pytest.raises(NnUNetError, match="to 'ignore', which is no single label"):
        project(TORSO, split, parse_label_map("totalsegmentator_v2"))
    assert project(TORSO, split | {"ignore": 118}, parse_label_map("totalsegmentator_v2")).mapped["lung"] == 118


@pytest.mark.parametrize(
    ("label_map", "sentence"),
    [
        ({"tumour": "liver"}, "name every one of them"),
        ({"tumor": "liver"}, "unknown classes"),
        ({"liver": "lever"}, "no single label"),
        ({"liver": 7}, "no single label"),
        ({"liver": "whole"}, "no single label"),
        ({"liver": None}, "share no label"),
        ({"small bowel": 2, "small_bowel": 2}, "twice"),
        ({"tumour": 1, "liver tumour": 2, "liver": 1}, "twice"),
    ],
)
def test_a_label_map_that_collides_or_names_what_is_not_there_is_refused(label_map, sentence):
    with pytest.raises(GuideGenError, match=sentence):
        project(TABLE, LABELS, label_map)


def test_a_label_map_is_read_from_the_command_line_and_from_a_file(tmp_path):
    expected = {"liver": "Liver", "tumour": None, "aorta": 3}
    (tmp_path / "map.json").write_text(json.dumps(expected))
    assert parse_label_map(str(tmp_path / "map.json")) == expected
    assert parse_label_map("liver=Liver, tumour=,aorta=3") == expected
    for bad in ("liver", "=1", "liver=1,liver=2"):
        with pytest.raises(NnUNetError):
            parse_label_map(bad)


@pytest.mark.parametrize(
    "label_map",
    [
        {"tumour": None},
        {"liver tumour": None, "spleen": None},
        {"spleen": None, "right kidney": None},
        {"liver tumour": 2},
        {},
    ],
)
def test_what_is_recorded_as_mapped_is_the_same_label_map_again(label_map):
    labels = {"background": 0, "liver": 1, "cancer": 2, "spleen": 3, "left kidney": 4}
    result = project(TORSO, labels, label_map)
    again = Projection.from_map(TORSO, json.loads(json.dumps(result.mapped)))
    assert again == result.projection
    assert np.array_equal(again.organ_table, result.projection.organ_table)
    assert np.array_equal(again.tumour_table, result.projection.tumour_table)


def test_a_tumour_that_is_dropped_is_said_to_become_background():
    labels = {"background": 0, "liver": 1}
    for name in ("tumour", "liver tumour"):
        said = project(TORSO, labels, {name: None}).notices()
        assert name in said[0].split(": ")[1].split(", ")
        assert not any("counts as the organ" in notice for notice in said)


# -- regions


def test_a_region_with_the_name_of_a_class_wants_to_be_told_which_id_is_the_class():
    labels = {"background": 0, "liver": [1, 2], "tumour": 2}
    with pytest.raises(NnUNetError, match=r"region of the ids \[1, 2\].* such as --label-map 'liver=1'"):
        project(TORSO, labels, {})
    result = project(TORSO, labels, parse_label_map("liver=1"))
    assert result.mapped == {"liver": 1, "tumour": 2}
    assert result.never_synthetic == ()
    assert project(TORSO, labels, {"liver": None}).mapped == {"liver": 0, "tumour": 2}
    # Both sides have labels of their own, so nothing of the class is lost.
    kidneys = {"background": 0, "kidney": [1, 2], "right kidney": 1, "left kidney": 2}
    assert project(TORSO, kidneys, {}).mapped == {"right kidney": 1, "left kidney": 2}


def test_a_region_of_which_synthetic_cases_show_a_part_is_said_not_to_be_shown_in_full():
    result = project(TORSO, {"background": 0, "whole": [1, 2], "liver": 1, "cyst": 2}, {})
    assert result.never_synthetic == ("whole", "cyst")
    assert "no synthetic case has in full: whole, cyst" in result.notices()[-1]


# -- target volumes


def under_a_target() -> np.ndarray:
    """A neck of soft tissue with a larynx, the upper half of which lies under a target volume."""
    labels = np.full((16, 16, 16), HEAD_NECK.id_of("soft tissue"), np.uint8)
    labels[6:10, 6:10, 2:10] = HEAD_NECK.id_of("larynx")
    labels[4:12, 4:12, 6:12] = HEAD_NECK.lesion_id
    return labels


@pytest.mark.parametrize(
    ("labels", "label_map", "under", "said"),
    [
        ({"larynx": 1}, {}, 0, "they become background;"),
        ({"larynx": 1}, {"ptv70": None}, 0, "they become background;"),
        ({"larynx": 1, "soft tissue": 2}, {}, 2, "they become soft tissue;"),
        ({"larynx": 1, "ignore": 2}, {}, 2, "they become 'ignore';"),
        ({"larynx": 1, "soft tissue": 2, "ignore": 3}, {}, 3, "they become 'ignore';"),
        ({"larynx": 1, "ignore": 2}, {"ptv70": None}, 0, "they become background;"),
        ({"larynx": 1, "ignore": 2}, {"mandible": "ignore"}, 2, "they become 'ignore';"),
        ({"larynx": 1, "PTV70": 2, "ignore": 3}, {}, 2, None),
        ({"larynx": 1, "gtv": 2, "ignore": 3}, {"ptv70": "gtv"}, 2, None),
    ],
)
def test_what_lies_under_a_target_volume_is_ignored_where_it_can_be_and_told_where_not(labels, label_map, under, said):
    result = project(HEAD_NECK, {"background": 0} | labels, label_map)
    projected = result(under_a_target(), (2.5, 2.5, 2.5))
    assert np.unique(projected[4:12, 4:12, 6:12]).tolist() == [under]
    assert (projected[6:10, 6:10, 2:6] == 1).all()
    told = [notice for notice in result.notices() if "ptv70 takes the voxels" in notice]
    assert len(told) == (said is not None)
    assert all(said in notice and "guidegen-shard --sampling organs" in notice for notice in told)
    assert not any("counts as the organ" in notice for notice in result.notices())


def test_tumours_of_organs_are_not_ignored():
    result = project(TORSO, {"background": 0, "liver": 1, "ignore": 2}, {})
    assert result.mapped == {"liver": 1}
    assert any("counts as the organ it grew in" in notice for notice in result.notices())
