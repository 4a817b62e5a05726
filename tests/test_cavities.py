"""Air within the body: a class of stage 1's own, which is background in every label map that leaves it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from little_patients import write_nifti
from test_prepare import command

from guidegen_data.anatomy_files import read_anatomy
from guidegen_data.cli.main import main
from guidegen_data.diffusion.categorical import CategoricalScheduler
from guidegen_data.models.cavities import belief_of_table, clamp_known, with_cavities, without_cavities
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler
from guidegen_data.models.sampling import sample_masks
from guidegen_data.models.text import TextEncoder
from guidegen_data.models.volume_bounds import VolumeBound
from guidegen_data.training.masks import load_mask_data

K = 5


def sampler(cavities: bool, seed: int = 0) -> MaskSampler:
    torch.manual_seed(seed)
    sizes = {"shape": (16, 16, 16), "channels": (8, 16, 32), "vector_size": 16, "token_size": 8}
    layouts = {"layout_size": 3, "layout_components": 2, "fine_channels": 4}
    model = MaskSampler(num_classes=K, fields=("a",), lesion_class=2, cavities=cavities, **sizes, **layouts)
    for name, weight in model.named_parameters():  # zeros would hide what a layer does
        if name.startswith(("fine.outlet", "layout")):
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def nothing(count: int = 1) -> MaskCondition:
    return MaskCondition(torch.zeros(count, 2, 8), torch.zeros(count, 1), torch.zeros(count, 16, 16, 16))


def neck(shape: tuple[int, int, int] = (12, 12, 4)) -> np.ndarray:
    """A body with an airway that is closed in the lower half and open to the front in the upper one."""
    label_map = np.zeros(shape, np.uint8)
    label_map[2:10, 2:10] = 3
    label_map[5:7, 5:7] = 0
    label_map[5:7, 7:, shape[2] // 2 :] = 0
    return label_map


def test_only_air_that_the_body_encloses_in_its_slice_is_a_cavity() -> None:
    label_map = neck()
    drawn = with_cavities(label_map, K)
    cavity = np.zeros(label_map.shape, bool)
    cavity[5:7, 5:7, :2] = True
    assert np.array_equal(drawn == K, cavity)
    assert np.array_equal(np.where(cavity, 0, drawn), label_map)
    assert torch.equal(without_cavities(torch.from_numpy(drawn), K), torch.from_numpy(label_map))
    assert not (label_map == K).any()  # the map that came in is as it was


def test_a_network_that_knew_none_draws_cavities_as_it_drew_background() -> None:
    old, new = sampler(cavities=False), sampler(cavities=True, seed=1)
    held = old.state_dict()
    grown = {name: wide for name, weight in held.items() if (wide := new.widened(name, weight, old.config)) is not None}
    assert len(grown) == 6
    new.load_state_dict(held | grown)
    labels = torch.randint(K, (1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    told = replace(nothing(), layout=torch.tensor([[0.5, -1.0, 0.2, 1.0]]))
    t, abar = torch.tensor([0.5]), torch.zeros(1)  # no evidence of the voxel itself, which depends on the classes
    before, after = old(labels, t, abar, told), new(labels, t, abar, told)
    torch.testing.assert_close(after[:, :K], before)
    torch.testing.assert_close(after[:, K], before[:, 0])
    as_cavity = torch.where((labels == 0) & (torch.rand(labels.shape) < 0.5), K, labels)
    torch.testing.assert_close(new(as_cavity, t, abar, told), after)


def test_weights_of_another_table_or_with_cavities_already_are_left_to_fit_or_not() -> None:
    new = sampler(cavities=True)
    weight = new.unet.inlet.weight
    assert new.widened("unet.inlet.weight", weight, new.config) is None
    assert new.widened("unet.inlet.weight", weight, {"num_classes": K + 2}) is None
    assert new.widened("time.0.weight", weight, {"num_classes": K}) is None
    assert sampler(cavities=False).widened("unet.inlet.weight", weight, {"num_classes": K}) is None


@pytest.mark.parametrize("keep_volumes", [False, True])
def test_no_cavity_leaves_stage_1_and_all_it_is_held_to_counts_the_classes_of_the_table(keep_volumes) -> None:
    model = sampler(cavities=True)
    with torch.no_grad():  # this network draws little else
        model.unet.outlet[2].bias.view(K + 1, 8)[K] = 6.0
    forbidden, lean = torch.zeros(2, K, 16, dtype=torch.bool), torch.zeros(2, K, 16)
    forbidden[:, 4] = True
    known = torch.full((2, 32, 32, 32), -1)
    known[:, :8], known[:, 8:12] = 0, 1
    seen = []
    drawn = sample_masks(
        model,
        CategoricalScheduler(num_classes=K + 1),
        nothing(2),
        [torch.Generator().manual_seed(i) for i in range(2)],
        (32, 32, 32),
        3,
        forbidden=forbidden,
        lean=lean,
        volumes=[[VolumeBound(1, torch.ones(16, dtype=torch.bool), 600, 4096)]] * 2,
        known=known,
        place=lambda t, belief: seen.append(belief),
        volume_ratio=torch.ones(K + 1) if keep_volumes else None,
    )
    assert set(drawn.unique().tolist()) <= {0, 1, 2, 3}
    assert (drawn[:, 12:] == 0).float().mean() > 0.5  # cavities they were
    assert (drawn[:, :8] == 0).all()
    assert (drawn[:, 8:12] == 1).all()
    assert [tuple(belief.shape) for belief in seen] == [(2, K, 16, 16, 16)] * 3
    for belief in seen:
        torch.testing.assert_close(belief.sum(dim=1), torch.ones(2, 16, 16, 16))


def test_known_background_may_be_either_and_other_labels_are_certain() -> None:
    belief = torch.tensor([0.1, 0.2, 0.1, 0.2, 0.1, 0.3]).view(1, 6, 1, 1, 1).repeat(1, 1, 1, 1, 3)
    held = clamp_known(belief, torch.tensor([0, 3, -1]).view(1, 1, 1, 3), K)[0, :, 0, 0]
    torch.testing.assert_close(held[:, 0], torch.tensor([0.25, 0, 0, 0, 0, 0.75]))
    torch.testing.assert_close(held[:, 1], torch.tensor([0.0, 0, 0, 1, 0, 0]))
    torch.testing.assert_close(held[:, 2], belief[0, :, 0, 0, 0])
    merged = belief_of_table(belief, K)[0, :, 0, 0, 0]
    torch.testing.assert_close(merged, torch.tensor([0.4, 0.2, 0.1, 0.2, 0.1]))


def test_training_reads_cavities_for_label_maps_and_none_for_layouts(tmp_path) -> None:
    write_nifti(tmp_path / "src", 3)
    assert main([*command("nifti", tmp_path / "src", tmp_path / "out"), "--validation-share", "0"]) == 0
    folder, anatomy = tmp_path / "out/train", read_anatomy(tmp_path / "out/anatomy.yaml")
    for path in sorted(folder.glob("*.npz")):
        held = dict(np.load(path))
        held["label_map"][:] = 0
        held["label_map"][4:-4, 4:-4] = 1
        held["label_map"][12:20, 12:20] = 0
        np.savez_compressed(path, **held)
    count = anatomy.num_classes
    plain, told = (load_mask_data(folder, anatomy, TextEncoder(), (16, 16, 16), cavities=c) for c in (False, True))
    assert (plain.num_classes, told.num_classes) == (count, count + 1)
    assert (told.labels == count).any()
    assert torch.equal(without_cavities(told.labels, count), plain.labels)
    assert torch.equal(told.healthy, plain.healthy)
    assert len(told.volume_ratio) == len(told.class_weight()) == count + 1
