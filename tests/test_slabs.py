"""Slabs of slices: what the benchmark trains on is what it draws."""

import numpy as np
import torch

from benchmarks.slabs import seams, slab_batch, slab_generator
from guidegen_data.models.slice_generator import label_slab, mask_triples, slice_loss
from guidegen_data.training.latents import LatentData

NUM_CLASSES = 5


def data(depth: int = 12) -> LatentData:
    """Two volumes whose latents and labels tell where they are from: 100 n + z, and z modulo the classes."""
    where = 100.0 * torch.arange(2)[:, None] + torch.arange(depth)
    latents = where[:, :, None, None, None].expand(2, depth, 8, 4, 4).half()
    labels = (torch.arange(depth) % NUM_CLASSES).to(torch.uint8).expand(2, 16, 16, depth)
    return LatentData(
        latents, labels, torch.zeros(2, 2, 3, 384).half(), torch.zeros(2, NUM_CLASSES), torch.zeros(2, NUM_CLASSES, 2),
        torch.zeros(2),
    )  # fmt: skip


def test_a_slab_of_one_is_a_slice_with_its_neighbours() -> None:
    labels = torch.randint(NUM_CLASSES, (2, 8, 8, 6), dtype=torch.uint8)
    for z in range(6):
        assert torch.equal(label_slab(labels, z, 1), mask_triples(labels, z))


def test_a_batch_holds_slabs_with_the_slab_and_the_labels_around_them() -> None:
    batch = slab_batch(data(), 4, torch.Generator().manual_seed(0))
    own = batch["latents"].unflatten(1, (4, 8))[:, :, 0, 0, 0]
    below = batch["previous"].unflatten(1, (4, 8))[:, :, 0, 0, 0]
    assert (own.diff(dim=1) == 1).all()
    present = batch["has_previous"]
    assert present.any()
    assert (below[present, -1] == own[present, 0] - 1).all()
    inner = batch["labels"][:, 1:-1, 0, 0]
    assert torch.equal(inner, (own % 100 % NUM_CLASSES).to(torch.uint8))


def test_the_generator_of_slabs_learns_from_such_a_batch() -> None:
    model, generator = slab_generator(2, NUM_CLASSES), torch.Generator().manual_seed(0)
    loss = slice_loss(model, **slab_batch(data(), 2, generator), generator=generator)["total"]
    loss.backward()
    assert torch.isfinite(loss)
    assert float(model.mask_encoder[0].weight.grad.abs().sum()) > 0


def test_seams_are_seen_where_slabs_meet() -> None:
    label_map = np.ones((8, 8, 16), np.uint8)
    even = np.arange(16.0) * np.ones((8, 8, 1))
    jumping = even + 10 * (np.arange(16) // 4)
    assert seams(even, label_map) == 1
    assert seams(jumping, label_map) == 11
