"""The verdict: what agrees with the report and with anatomy passes, and each thing that does not is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from ellipsoids import EllipsoidGenerator
from hypothesis import given, settings
from strategies import findings

from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.case import Case, Draft, centred_affine
from guidegen_data.grounding import settle_lesions
from guidegen_data.quality import adherence, num_components, organ_volumes_ml, verdict, verdict_before_ct
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.sources.phantom import phantom


def failed(case: Case) -> set[str]:
    return {check["name"] for check in verdict(case)["checks"] if not check["pass"]}


def relabel(case: Case, where: np.ndarray, label: int) -> Case:
    label_map = case.label_map.copy()
    label_map[where] = label
    return replace(case, label_map=label_map)


def test_a_case_that_shows_what_was_asked_passes_every_check(case: Case) -> None:
    quality = verdict(case)
    assert quality["passed"]
    assert len(quality["checks"]) > 30
    assert all(set(check) == {"name", "value", "allowed", "pass"} for check in quality["checks"])
    assert json.loads(json.dumps(quality, allow_nan=False)) == quality


def test_it_passes_exactly_when_every_check_does(case: Case) -> None:
    missed = relabel(case, case.label_map == case.anatomy.lesion_id, 3)
    assert not verdict(missed)["passed"]
    assert failed(missed) == {"tumour volume (ml)"}


@settings(max_examples=20, deadline=None)
@given(asked=findings(max_lesions=0))
def test_organs_said_to_be_absent_are_the_ones_without_a_voxel(asked: Findings) -> None:
    (drawn,) = EllipsoidGenerator().generate([asked], ["text"], ["one"], [0])
    volumes = organ_volumes_ml(drawn)
    assert {name for name, ml in volumes.items() if ml == 0} == {
        name for name in volumes if asked.status(name) == "absent"
    }
    assert failed(drawn) == set()


def test_one_lesion_voxel_that_nobody_asked_for_fails(case: Case) -> None:
    quiet = relabel(replace(case, findings=replace(case.findings, lesions=())), case.label_map == 20, 3)
    assert failed(quiet) == set()
    x, y, z = np.argwhere(quiet.label_map == 3)[0]
    spot = np.zeros(quiet.label_map.shape, bool)
    spot[x, y, z] = True
    assert failed(relabel(quiet, spot, 20)) == {"tumour volume (ml)"}


def test_left_and_right_are_the_patients_own(case: Case) -> None:
    volumes = organ_volumes_ml(case)  # the left kidney is absent: x grows to the patient's right
    assert volumes["right kidney"] > 30
    assert volumes["left kidney"] == 0
    mirrored = replace(case, label_map=case.label_map[::-1].copy(), ct_hu=case.ct_hu[::-1].copy())
    volumes = organ_volumes_ml(mirrored)
    assert volumes["right kidney"] == 0
    assert failed(mirrored) >= {"left kidney absent (ml)"}


def test_the_midline_follows_the_spine_not_the_field(case: Case) -> None:
    shifted = replace(case, label_map=np.roll(case.label_map, 6, 0), ct_hu=np.roll(case.ct_hu, 6, 0))
    assert organ_volumes_ml(shifted)["left kidney"] == 0


def test_an_organ_that_is_said_to_be_absent_but_is_there_fails(case: Case) -> None:
    asked = replace(case.findings, organs={"spleen": "absent"})
    assert failed(replace(case, findings=asked)) == {"spleen absent (ml)"}


def test_a_field_with_few_of_its_organs_fails(case: Case) -> None:
    emptied = relabel(case, (case.label_map > 6) & (case.label_map < 20), 0)
    assert "share of the abdomen's organs present" in failed(emptied)


def test_too_large_an_organ_fails_and_one_cut_by_the_field_does_not(case: Case) -> None:
    grown = relabel(case, (case.ct_hu > -300) & (case.label_map == 0), 1)
    assert "spleen volume (ml)" in failed(grown)
    assert "spleen volume (ml)" not in failed(relabel(case, (case.label_map == 1) & (np.indices((32,) * 3)[2] > 20), 0))


def test_scattered_organs_fail(case: Case) -> None:
    scattered = case
    for corner in ((3, 3, 3), (3, 28, 3), (28, 3, 3)):
        block = tuple(slice(c, c + 3) for c in corner)
        where = np.zeros(case.label_map.shape, bool)
        where[block] = True
        scattered = relabel(scattered, where, 1)
    assert "spleen components" in failed(scattered)


def test_hu_that_no_contrast_phase_explains_fails(case: Case) -> None:
    ct_hu = case.ct_hu.copy()
    ct_hu[case.label_map == 3] = -90
    assert failed(replace(case, ct_hu=ct_hu)) == {"liver mean HU"}


def test_a_field_without_a_body_fails(case: Case) -> None:
    ct_hu = np.full_like(case.ct_hu, -1000)
    ct_hu[0, 0, 0] = 40
    empty = replace(case, ct_hu=ct_hu, label_map=np.zeros_like(case.label_map))
    assert "share of body in the field" in failed(empty)


@pytest.mark.parametrize(("crumb", "number"), [(1, 1), (60, 2)])
def test_crumbs_are_no_components(crumb: int, number: int) -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[:5, :10, :10] = True
    mask[8:].flat[:crumb] = True
    assert num_components(mask) == number


def test_a_ct_that_does_not_follow_its_labels_fails(case: Case) -> None:
    name = "HU steps at label borders over those beside them"
    assert name not in failed(case)
    assert adherence(replace(case, ct_hu=np.roll(case.ct_hu, 4, axis=0))) < adherence(case) / 1.5
    assert name in failed(replace(case, ct_hu=np.roll(case.ct_hu, 4, axis=0)))


def test_adherence_is_one_where_the_ct_ignores_the_labels(case: Case) -> None:
    noise = np.random.default_rng(0).normal(0, 30, case.ct_hu.shape)
    blind = replace(case, ct_hu=np.rint(noise * 5 - 200).clip(-1000, 1900).astype(np.int16))
    assert adherence(blind) == pytest.approx(1, abs=0.1)


def made_by_us(findings: Findings) -> Case:
    """A phantom with lesions at their sites, as a pipeline tells of it; its CT has none of the labels' HU."""
    body, ct_hu = phantom(np.random.default_rng(0), "abdomen and pelvis")
    body = np.where(body == TORSO.lesion_id, np.uint8(0), body)
    label_map, added, _ = settle_lesions(body, findings, TORSO.spacing_mm, np.random.default_rng(1))
    assert len(added) == len(findings.lesions)
    affine = centred_affine(label_map.shape, TORSO.spacing_mm)
    done = {"generation": {"cleaned_voxels": {}, "lesions_added": len(added)}}
    return Case("one", ct_hu.astype(np.int16), label_map, affine, "CT.", findings, done)


def test_a_lesion_at_another_site_than_its_reports_fails() -> None:
    right = Findings(region="abdomen and pelvis", lesions=(Lesion("liver", "right lobe", 25.0),))
    names = {"lesions at the sites asked for", "lesions that nobody asked for"}
    as_asked = made_by_us(right)
    assert names <= {check["name"] for check in verdict(as_asked)["checks"]}
    assert not names & failed(as_asked)
    left = replace(right, lesions=(Lesion("liver", "left lobe", 25.0),))
    assert names <= failed(replace(as_asked, findings=left))


def test_more_lesions_than_the_report_tells_fail() -> None:
    two = Findings(
        region="abdomen and pelvis", lesions=(Lesion("liver", "right lobe", 25.0), Lesion("spleen", "", 20.0))
    )
    case = made_by_us(two)
    fewer = failed(replace(case, findings=replace(two, lesions=two.lesions[1:])))
    assert "lesions that nobody asked for" in fewer - failed(case)
    assert "lesions at the sites asked for" not in fewer


def test_what_was_done_to_a_label_map_stands_in_its_verdict(case: Case) -> None:
    labelled = int((case.label_map > 0).sum())
    done = {"cleaned_voxels": {"liver": 5, "tumour": 2}, "lesions_added": len(case.findings.lesions)}
    mended = replace(case, provenance=dict(case.provenance) | done)
    checks = {c["name"]: c for c in verdict(mended)["checks"]}
    assert checks["voxels given away as specks"]["value"] == 7
    assert checks["lesions added by rule"]["value"] == len(case.findings.lesions)
    assert failed(mended) == set()
    noise = replace(case, provenance=done | {"cleaned_voxels": {"liver": labelled // 5}})
    assert failed(noise) == {"voxels given away as specks"}
    assert "lesions added by rule" not in {c["name"] for c in verdict(case)["checks"]}


def test_organs_outside_of_any_body_are_the_rim_of_a_cut_scan() -> None:
    label_map = np.zeros((64, 64, 64), np.uint8)
    label_map[20:44, 20:44, 10:60] = HEAD_NECK.ids["soft tissue"]
    label_map[30:33, 30:33, 10:60] = HEAD_NECK.ids["spinal cord"]
    name = "share of the organs in slices that show a body"

    def shown(labels: np.ndarray, anatomy_name: str = HEAD_NECK.name) -> dict | None:
        affine = centred_affine(labels.shape, (5.0, 5.0, 5.0))
        region = "head and neck" if anatomy_name == HEAD_NECK.name else "abdomen"
        draft = Draft("neck", labels, affine, "", Findings(region=region, anatomy_name=anatomy_name), {}, None)
        return next((c for c in verdict_before_ct(draft)["checks"] if c["name"] == name), None)

    assert shown(label_map) == {"name": name, "value": 1.0, "allowed": [0.96, 1.0], "pass": True}
    rim = label_map.copy()
    rim[:, :, 10:20][rim[:, :, 10:20] == HEAD_NECK.ids["soft tissue"]] = 0
    told = shown(rim)
    assert told is not None
    assert (round(told["value"], 3), told["pass"]) == (0.8, False)
    assert shown(np.zeros_like(label_map))["pass"]
    assert shown(np.ones_like(label_map), TORSO.name) is None
