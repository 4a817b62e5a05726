"""The look of a scan: noise of the strength and grain that were drawn, and none where there is air."""

import numpy as np
import pytest
import torch

from guidegen_data.errors import ModelError
from guidegen_data.metrics.texture import noise_power
from guidegen_data.models.noise_style import NoiseStyle, draw_style, noise_hu, with_noise

SPACING = (3.0, 3.0, 3.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("sigma", "grain"), [(4.0, 0.03), (12.0, 0.07)])
def test_noise_has_its_strength_and_its_power_falls_by_e_over_its_grain(sigma: float, grain: float) -> None:
    noise = noise_hu((96, 96, 12), SPACING, NoiseStyle(sigma, grain), generator())
    assert float(noise.std()) == pytest.approx(sigma, rel=0.01)
    assert abs(float(noise.mean())) < 0.2 * sigma
    frequency, power = noise_power(noise.numpy(), (noise == noise).numpy(), 3.0)
    slope, _ = np.polyfit(frequency[1:7], np.log(power[1:7]), 1)
    assert -1 / slope == pytest.approx(grain, rel=0.35)


def test_neighbouring_slices_share_some_noise_and_distant_ones_none() -> None:
    noise = noise_hu((64, 64, 12), SPACING, NoiseStyle(5.0, 0.05), generator())
    flat = noise.permute(2, 0, 1).flatten(1)
    correlation = torch.corrcoef(flat)
    assert 0.3 < float(correlation[5, 6]) < 0.6
    assert abs(float(correlation[2, 9])) < 0.1


def test_air_stays_as_it_is_and_hu_stay_in_range() -> None:
    ct = torch.full((32, 32, 4), -1000, dtype=torch.int16)
    ct[8:24, 8:24] = 1970
    noisy = with_noise(ct, SPACING, NoiseStyle(30.0, 0.05), generator(), (-1024, 1976))
    assert (noisy[:8] == -1000).all()
    assert noisy.dtype == torch.int16
    assert int(noisy.max()) == 1976
    assert (noisy[8:24, 8:24] != 1970).float().mean() > 0.8
    assert torch.equal(with_noise(ct, SPACING, NoiseStyle(0.0, 0.05), generator(), (-1024, 1976)), ct)


def test_a_style_lies_between_its_bounds_and_depends_on_the_generator_alone() -> None:
    styles = [draw_style(generator(i), (3.0, 12.0)) for i in range(40)]
    assert styles[0] == draw_style(generator(0), (3.0, 12.0))
    assert all(3 <= s.sigma_hu <= 12 and 0.03 <= s.grain_per_mm <= 0.07 for s in styles)
    assert max(s.sigma_hu for s in styles) - min(s.sigma_hu for s in styles) > 6


def test_a_style_that_cannot_be_is_refused() -> None:
    with pytest.raises(ModelError, match="sigma_hu >= 0"):
        NoiseStyle(-1.0, 0.05)
