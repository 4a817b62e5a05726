"""What the autoencoder leaves of a CT: lesion contrast, and a decoder that is shown the label map."""

import numpy as np
import pytest
import torch

from guidegen_data.metrics.reconstruction import lesion_contrasts, reconstruct
from guidegen_data.models.autoencoder import CTAutoencoder, autoencoder_loss

ORGAN, LESION = 1, 2


def ball(centre: tuple[int, int, int], radius: float, size: int = 32) -> np.ndarray:
    return radius >= np.linalg.norm(np.indices((size,) * 3).T - centre, axis=-1).T


def scene() -> tuple[np.ndarray, np.ndarray]:
    """An organ of 100 HU with a lesion of 60 HU in it, and a lesion that lies in nothing."""
    label_map = np.zeros((32, 32, 32), np.uint8)
    label_map[ball((12, 12, 12), 10)] = ORGAN
    label_map[ball((12, 12, 12), 4)] = LESION
    label_map[ball((26, 26, 26), 2)] = LESION
    return np.select([label_map == ORGAN, label_map == LESION], [100.0, 60.0], -50.0), label_map


def test_contrast_is_told_of_the_organ_around() -> None:
    ct, label_map = scene()
    blurred = np.where(label_map == LESION, 80.0, ct)
    ((diameter, before, after),) = lesion_contrasts([ct, blurred], label_map, LESION, (2.0, 2.0, 2.0))
    assert (before, after) == (-40.0, -20.0)
    assert diameter == pytest.approx(16, rel=0.1)


def test_what_is_not_labelled_is_no_organ_to_compare_with() -> None:
    ct, label_map = scene()
    ct[(label_map == 0) & ball((12, 12, 12), 16)] = 5000.0
    assert len(lesion_contrasts([ct], label_map, LESION, (2.0, 2.0, 2.0))) == 1
    assert lesion_contrasts([ct], np.zeros_like(label_map), LESION, (2.0, 2.0, 2.0)) == []


def test_the_decoder_is_shown_its_own_slice() -> None:
    torch.manual_seed(0)
    model = CTAutoencoder(latent_channels=3, block_out_channels=(8, 16), num_classes=3).eval()
    torch.nn.init.normal_(model.guide.write.weight)
    ct, label_map = scene()
    ct, label_map = ct[:20], label_map[:20]
    with_map = reconstruct(model, ct, batch_size=5, label_map=label_map)
    assert with_map.shape == ct.shape
    changed = np.abs(with_map - reconstruct(model, ct, batch_size=5)).max(axis=(0, 1))
    moved = label_map.copy()
    moved[..., 7] = 0
    once_more = reconstruct(model, ct, batch_size=5, label_map=moved)
    assert changed.min() > 0
    assert np.flatnonzero(np.abs(once_more - with_map).max(axis=(0, 1))).tolist() == [7]


def test_a_loss_without_windows_sees_none() -> None:
    model = CTAutoencoder(latent_channels=3, block_out_channels=(8, 16))
    ct = 100 * torch.randn(2, 1, 32, 32)
    losses = [autoencoder_loss(model, ct, torch.Generator().manual_seed(0), num_windows=n) for n in (0, 2)]
    assert float(losses[1].windowed) > float(losses[0].windowed)
    assert float(losses[1].gradient) == float(losses[0].gradient)
