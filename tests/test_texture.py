"""The figures that say whether a CT looks like one inside its organs."""

import numpy as np
import pytest
from scipy import ndimage

from guidegen_data.anatomy import TORSO
from guidegen_data.metrics.texture import medians, noise_power, organ_textures, surroundings


def scene(noise_hu: float, slope_hu: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A liver block of 60 HU in a CT with white noise and a rise along z."""
    labels = np.zeros((48, 48, 40), np.uint8)
    labels[8:40, 8:40, 5:35] = TORSO.ids["liver"]
    rng = np.random.default_rng(0)
    ct = 60 + rng.normal(0, noise_hu, labels.shape) + slope_hu * np.arange(40)
    return np.where(labels > 0, ct, -1000), labels


def test_a_uniform_organ_has_its_hu_and_no_spread_step_or_drift() -> None:
    texture = organ_textures(*scene(0.0), TORSO)["liver"]
    assert texture.median_hu == 60
    assert texture.spread_hu == texture.step_hu == texture.drift_hu == 0


def test_noise_shows_as_spread_and_step_and_a_rise_as_drift() -> None:
    noisy = organ_textures(*scene(10.0), TORSO)["liver"]
    assert noisy.spread_hu == pytest.approx(13.5, rel=0.05)
    assert noisy.step_hu == pytest.approx(10 * 2 / np.sqrt(np.pi), rel=0.05)
    assert abs(noisy.drift_hu) < 0.5
    assert organ_textures(*scene(10.0, slope_hu=0.5), TORSO)["liver"].drift_hu == pytest.approx(10.0, abs=0.5)


def test_the_spectrum_of_white_noise_is_flat_and_holds_its_variance() -> None:
    ct, labels = scene(10.0)
    frequency, power = noise_power(ct, labels > 0, 3.0)
    assert frequency[-1] == pytest.approx(1 / 6)  # Nyquist at 3 mm
    assert power == pytest.approx(np.full(8, 100 * 9), rel=0.15)


def test_smoothing_takes_power_from_high_frequencies() -> None:
    ct, labels = scene(10.0)
    smooth = ct.copy()
    smooth[1:-1] = (ct[:-2] + ct[1:-1] + ct[2:]) / 3
    inner = np.zeros_like(labels, bool)
    inner[10:38, 10:38, 6:34] = True
    ratio = noise_power(smooth, inner, 3.0)[1] / noise_power(ct, inner, 3.0)[1]
    assert ratio[-1] < 0.7 * ratio[0]
    assert noise_power(ct, np.zeros_like(inner), 3.0)[0].size == 0


def test_medians_over_cts_take_drift_without_its_sign() -> None:
    textures = [organ_textures(*scene(1.0, slope_hu=s), TORSO) for s in (0.5, -0.5)]
    row = medians(textures, "liver")
    assert row["N"] == 2
    assert row["drift_hu"] == pytest.approx(10, abs=0.3)
    assert medians(textures, "spleen") == {}


def body(radii: np.ndarray, blur: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A body of fat with a core of muscle, a round slice of each radius, and no class."""
    x, y = np.meshgrid(*[np.arange(64) - 31.5] * 2, indexing="ij")
    distance = np.hypot(x, y)[..., None]
    ct = np.select([distance < radii / 2, distance < radii], [50.0, -100.0], -1000.0)
    return ndimage.gaussian_filter(ct, (blur, blur, 0)), np.zeros(ct.shape, np.uint8)


def test_a_straight_body_has_no_steps_along_it_and_a_ragged_one_has() -> None:
    straight = surroundings(*body(np.full(20, 20.0)))
    ragged = surroundings(*body(20.0 + np.arange(20) % 2))
    assert straight.outline_step == 0
    assert ragged.outline_step == pytest.approx(0.85, abs=0.1)  # one voxel out and in again; corners count once


def test_a_blurred_outline_is_wider_and_hu_are_those_around_the_classes() -> None:
    sharp, blurred = (surroundings(*body(np.full(20, 20.0), blur)) for blur in (0.0, 1.5))
    assert sharp.outline_width == 0
    assert blurred.outline_width > 1.5
    assert set(np.unique(sharp.hu)) == {-100, 50}
    ct, labels = body(np.full(20, 20.0))
    labels[ct > 0] = 1
    assert set(np.unique(surroundings(ct, labels).hu)) == {-100}
    assert surroundings(ct, np.ones_like(labels)) is None
