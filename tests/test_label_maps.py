"""Our label maps on other label sets: every voxel gets the one label that is asked for it, or the map is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidegen_data import label_set
from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.errors import LabelMapError
from guidegen_data.label_maps import PUBLIC, Projection, normalised, vocabulary

SPACING_MM = (3.0, 3.0, 3.0)
CLASSES = [c.name for c in TORSO.classes if 0 < c.id < 20]


def body() -> np.ndarray:
    """A spine, a kidney on each side, a liver with a tumour in it and a colon with another one; x to the right."""
    labels = np.zeros((40, 30, 30), np.uint8)
    labels[18:22, 2:6] = TORSO.id_of("vertebrae")
    labels[4:12, 4:10, 4:10] = labels[28:36, 4:10, 4:10] = TORSO.id_of("kidney")
    labels[24:38, 10:24, 14:28] = TORSO.id_of("liver")
    labels[4:14, 14:24, 14:28] = TORSO.id_of("colon")
    labels[28:32, 14:18, 18:22] = labels[7:10, 17:20, 18:22] = TORSO.lesion_id
    return labels


IN_LIVER, IN_COLON = (slice(28, 32), slice(14, 18), slice(18, 22)), (slice(7, 10), slice(17, 20), slice(18, 22))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(CLASSES), st.one_of(st.none(), st.integers(1, 300)), min_size=1))
def test_a_class_becomes_the_label_it_is_mapped_to_and_everything_else_background(label_map) -> None:
    labels = np.arange(20, dtype=np.uint8).reshape(20, 1, 1)
    if not any(label_map.values()):
        with pytest.raises(LabelMapError, match="keeps at least one"):
            Projection.from_map(TORSO, label_map)
        return
    projected = Projection.from_map(TORSO, label_map)(labels, SPACING_MM)
    assert projected.ravel().tolist() == [label_map.get(c.name) or 0 for c in TORSO.classes[:20]]
    assert projected.dtype == (np.uint8 if max(filter(None, label_map.values())) < 256 else np.uint16)


def test_classes_that_are_all_named_are_merged() -> None:
    merged = Projection.from_map(TORSO, {"liver": 1, "colon": 1, "kidney": 2})(body(), SPACING_MM)
    ours = body()
    assert np.array_equal(merged == 2, ours == TORSO.id_of("kidney"))
    rest = np.isin(ours, [TORSO.id_of("liver"), TORSO.id_of("colon"), TORSO.lesion_id])
    assert np.array_equal(merged == 1, rest)


def test_sides_are_told_by_the_patients_own_midline() -> None:
    projected = Projection.from_map(TORSO, {"right kidney": 2, "kidney_left": 3})(body(), SPACING_MM)
    assert (projected[28:36, 4:10, 4:10] == 2).all()
    assert (projected[4:12, 4:10, 4:10] == 3).all()
    assert np.count_nonzero(projected) == 2 * 8 * 6 * 6


@pytest.mark.parametrize(
    ("label_map", "in_liver", "in_colon"),
    [
        ({"liver": 1}, 1, 0),
        ({"liver": 1, "colon": 2}, 1, 2),
        ({"liver": 1, "tumour": 3}, 3, 3),
        ({"liver": 1, "tumour": None}, 0, 0),
        ({"liver": 1, "liver tumour": 3}, 3, 0),
        ({"colon tumour": 3}, 0, 3),
        ({"liver": 1, "liver_tumour": None, "colon": 2}, 0, 2),
    ],
)
def test_a_tumour_is_its_hosts_unless_it_is_named(label_map, in_liver: int, in_colon: int) -> None:
    projected = Projection.from_map(TORSO, label_map)(body(), SPACING_MM)
    assert (projected[IN_LIVER] == in_liver).all()
    assert (projected[IN_COLON] == in_colon).all()


def test_projections_are_equal_when_every_voxel_becomes_the_same_label() -> None:
    one = Projection.from_map(TORSO, {"liver": 1})
    assert one == Projection.from_map(TORSO, {"liver": 1, "colon": None})
    for other in ({"liver": 2}, {"colon": 1}, {"liver": 1, "tumour": None}, {"liver": 1, "liver tumour": None}):
        assert one != Projection.from_map(TORSO, other)


@pytest.mark.parametrize(
    ("label_map", "sentence"),
    [
        ({"small bowel": 1, "Small_Bowel": 2}, "twice"),
        ({"kidney": 1, "right kidney": 2}, "twice"),
        ({"right kidney": 1, "kidney right": 1}, "twice"),
        ({"tumour": 1, "liver tumour": 2}, "twice"),
        ({"lever": 1}, "unknown classes"),
        ({"liver": -1}, "from 0 to 65535"),
        ({"liver": 70000}, "from 0 to 65535"),
        ({"liver": "1"}, "from 0 to 65535"),
        ({"liver": True}, "from 0 to 65535"),
        ({"background": 1, "liver": 2}, "must stay 0"),
        ({}, "keeps at least one"),
    ],
)
def test_a_map_that_collides_or_cannot_be_is_refused(label_map, sentence: str) -> None:
    with pytest.raises(LabelMapError, match=sentence):
        Projection.from_map(TORSO, label_map)


def test_the_input_is_left_as_it_was_and_head_and_neck_has_its_own_names() -> None:
    labels = body()
    Projection.from_map(TORSO, {"liver": 1, "right kidney": 2})(labels, SPACING_MM)
    assert np.array_equal(labels, body())
    projection = Projection.from_map(HEAD_NECK, {"mandible": 7, "ptv70": 8})
    assert projection(np.arange(9, dtype=np.uint8).reshape(9, 1, 1), SPACING_MM).ravel()[[7, 8, 1]].tolist() == [
        7,
        8,
        0,
    ]


# -- public sets


@pytest.mark.parametrize(
    ("name", "num_labels", "some"),
    [
        ("totalsegmentator_v2", 117, {"liver": 5, "colon": 20, "vertebrae_C1": 50, "rib_right_12": 115, "heart": 51}),
        ("btcv", 13, {"liver": 6, "left kidney": 3, "portal vein and splenic vein": 10, "left adrenal gland": 13}),
        ("amos", 15, {"liver": 6, "postcava": 9, "duodenum": 13, "prostate/uterus": 15}),
        ("msd_task03_liver", 2, {"liver": 1, "cancer": 2}),
        ("msd_task06_lung", 1, {"cancer": 1}),
        ("msd_task07_pancreas", 2, {"pancreas": 1, "cancer": 2}),
        ("msd_task08_hepaticvessel", 2, {"Vessel": 1, "Tumour": 2}),
        ("msd_task09_spleen", 1, {"spleen": 1}),
        ("msd_task10_colon", 1, {"colon cancer primaries": 1}),
        ("kits19", 2, {"kidney": 1, "tumor": 2}),
        ("kits21", 3, {"kidney": 1, "tumor": 2, "cyst": 3}),
        ("kits23", 3, {"kidney": 1, "tumor": 2, "cyst": 3}),
    ],
)
def test_public_sets_have_their_published_ids(name: str, num_labels: int, some: dict[str, int]) -> None:
    labels = label_set(name).labels
    assert sorted(labels.values()) == list(range(1, num_labels + 1))
    assert {n: labels[n] for n in some} == some


@pytest.mark.parametrize("wanted", PUBLIC.values(), ids=PUBLIC)
def test_every_source_of_a_public_set_is_ours_and_every_target_its_own(wanted) -> None:
    assert set(wanted.sources.values()) <= set(wanted.labels)
    assert all(normalised(name) in vocabulary(TORSO) for name in (*wanted.sources, *wanted.finer))
    assert all(set(parts) <= set(wanted.labels) for parts in wanted.finer.values())
    projected = wanted.projection(255)(body(), SPACING_MM)
    assert set(np.unique(projected)) <= {0, 255, *wanted.labels.values()}


def test_equal_names_in_totalsegmentator_are_those_our_own_table_was_merged_from() -> None:
    wanted = label_set("totalsegmentator_v2")
    sources = {c.name: set(c.sources) for c in TORSO.classes}
    for ours, theirs in wanted.sources.items():
        assert theirs in sources[vocabulary(TORSO)[normalised(ours)].class_name]
    for ours, parts in wanted.finer.items():
        assert set(parts) == sources[ours]
    assert {s for names in sources.values() for s in names} <= set(wanted.labels)


def test_tumours_of_decathlon_tasks_are_those_of_their_organ_only() -> None:
    liver, colon = (label_set(f"msd_task{n}").projection()(body(), SPACING_MM) for n in ("03_liver", "10_colon"))
    assert (liver[IN_LIVER] == 2).all()
    assert not liver[IN_COLON].any()
    assert (colon[IN_COLON] == 1).all()
    assert np.count_nonzero(colon) == colon[IN_COLON].size


def test_classes_that_a_public_set_splits_need_a_label_to_ignore() -> None:
    wanted = label_set("totalsegmentator_v2")
    with pytest.raises(LabelMapError, match="splits lung, vertebrae, rib"):
        wanted.projection()
    with pytest.raises(LabelMapError, match="is a label of"):
        wanted.projection(ignore_label=5)
    assert (wanted.projection(255)(body(), SPACING_MM)[18:22, 2:6] == 255).all()
    assert {"trachea", "skull"} <= set(wanted.never_synthetic)


def test_unknown_sets_and_those_of_mri_are_refused() -> None:
    with pytest.raises(LabelMapError, match="known: totalsegmentator_v2, btcv"):
        label_set("flare")
    with pytest.raises(LabelMapError, match="task on MRI"):
        label_set("msd_task02_heart")
