"""Sides and levels of targets are judged each by itself."""

import numpy as np

from benchmarks.evaluation import target_places
from guidegen_data import HEAD_NECK, Case
from guidegen_data.case import centred_affine
from guidegen_data.reports.findings import Findings, Lesion


def case_with(asked: Lesion, centre_mm: tuple[float, float, float]) -> Case:
    """A block of soft tissue with a vertebral column of bone, and a ball of target about a place in it."""
    spacing = (5.0, 5.0, 5.0)
    grid = np.stack(np.meshgrid(*[(np.arange(64) - 31.5) * 5.0] * 3, indexing="ij"), axis=-1)
    label_map = np.zeros((64, 64, 64), np.uint8)
    label_map[(np.abs(grid[..., 0]) < 80) & (np.abs(grid[..., 1]) < 80)] = HEAD_NECK.ids["soft tissue"]
    label_map[((grid - np.array(centre_mm)) ** 2).sum(axis=-1) < 18.0**2] = HEAD_NECK.lesion_id
    findings = Findings(lesions=(asked,), region="neck", anatomy_name=HEAD_NECK.name)
    ct_hu = np.where(label_map > 0, 40, -1000).astype(np.int16)
    return Case("x", ct_hu, label_map, centred_affine(label_map.shape, spacing), "", findings, {})


def test_a_target_on_the_other_side_has_its_level_and_not_its_side() -> None:
    from guidegen_data.lesions import find_lesions

    there = case_with(Lesion("right hemineck", "middle third", 36.0), (50.0, 0.0, 20.0))
    (found,) = find_lesions(there.label_map, HEAD_NECK, there.spacing_mm)
    assert found.organ == "right hemineck"
    right = case_with(Lesion("right hemineck", found.site, 36.0), (50.0, 0.0, 20.0))
    left = case_with(Lesion("right hemineck", found.site, 36.0), (-50.0, 0.0, 20.0))
    other = next(s for s in ("upper third", "lower third") if s != found.site)
    lower = case_with(Lesion("right hemineck", other, 36.0), (50.0, 0.0, 20.0))
    assert target_places([right]) == {"N": 1, "side": 1.0, "level": 1.0}
    assert target_places([left]) == {"N": 1, "side": 0.0, "level": 1.0}
    assert target_places([right, lower]) == {"N": 2, "side": 1.0, "level": 0.5}
    assert target_places([]) == {"N": 0, "side": None, "level": None}
