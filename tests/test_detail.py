"""Detail drawn after stage 1: learned from smoothed label maps, changes nothing but its classes, comes with a model."""

import json

import numpy as np
import pytest
import torch
from little_models import train_little
from scipy import ndimage
from tiny import tiny_pipeline

from guidegen_data.cli.main import main
from guidegen_data.errors import SourceError
from guidegen_data.models.detail import DetailNetwork
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.prepared import case_paths, load_label_map
from guidegen_data.tissue_rule import smoothed
from guidegen_data.training.detail import _pair, broken, detail_loss
from guidegen_data.training.provenance import run_facts, with_stage

SHORT = ["--recipe", "tiny", "--num-steps", "4", "--validate-every", "2", "--device", "cpu"]
SMALL = {"num_classes": 5, "channels": (16, 16, 16), "num_res_units": 1, "fine_channels": 8}
BONE, LESION = 2, 4
STEPS = 6


def network(**more) -> DetailNetwork:
    torch.manual_seed(0)
    return DetailNetwork(**{**SMALL, "classes": (0, BONE), "reach": 2, **more}).eval()


def ladder(low: int = 6) -> torch.Tensor:
    """A spine of vertebrae four voxels high with gaps of two, a lesion in the middle of it, an organ beside."""
    label_map = torch.zeros(16, 16, 32, dtype=torch.uint8)
    for z in range(1, 28, 6):
        label_map[low : low + 5, 5:10, z : z + 4] = BONE
    label_map[low + 1 : low + 3, 6:8, 12:16] = LESION
    label_map[low - 4 : low, 5:10] = 1
    return label_map


def rod(label_map: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(smoothed(label_map.numpy(), (0, BONE), (4.0, 4.0), (1.0, 1.0, 1.0)))


def pieces(label_map: torch.Tensor) -> int:
    sizes = np.bincount(ndimage.label(np.isin(label_map.numpy(), (BONE, LESION)))[0].ravel())[1:]
    return int((sizes > 20).sum())


def test_only_voxels_of_its_classes_and_near_to_them_are_open() -> None:
    label_map = torch.zeros(16, 16, 16, dtype=torch.uint8)
    label_map[8, 8, 8], label_map[9, 8, 8], label_map[1, 1, 1] = BONE, LESION, 1
    opened = network().opened(label_map)
    expected = torch.zeros(16, 16, 16, dtype=torch.bool)
    expected[6:11, 6:11, 6:11] = True
    expected[9, 8, 8] = False
    assert torch.equal(opened, expected)
    assert not network().opened(torch.ones(16, 16, 16, dtype=torch.uint8)).any()


def test_the_box_is_the_least_that_the_network_can_see() -> None:
    net, opened = network(), torch.zeros(16, 16, 32, dtype=torch.bool)
    assert net.box(opened) is None
    opened[3:6, 14:16, 0:9] = True
    box = net.box(opened)
    assert net.multiple == 4
    assert [(s.start, s.stop) for s in box] == [(3, 11), (8, 16), (0, 12)]


def test_a_single_voxel_is_drawn_too() -> None:
    for corner in (True, False):
        label_map = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
        if not corner:
            label_map[0, 4:12, 4:12, 4:12] = 1
        label_map[(0, 0, 0, 0) if corner else (0, 7, 7, 7)] = BONE
        drawn = network(reach=1).draw(label_map, [torch.Generator().manual_seed(0)], STEPS)
        assert drawn.shape == label_map.shape
        detail_loss(network(reach=1), label_map[0], label_map[0], torch.Generator().manual_seed(0)).backward()


def test_what_is_forbidden_is_not_drawn_and_what_is_known_stays() -> None:
    net, maps = network(), rod(ladder())[None]
    torch.nn.init.normal_(net.fine[-1].weight, std=2)
    forbidden = torch.zeros(1, 5, 4, dtype=torch.bool)
    forbidden[:, BONE, 2:] = True
    drawn = net.draw(maps, [torch.Generator().manual_seed(0)], STEPS, forbidden)
    free = drawn.clone()
    free[~net.opened(maps[0])[None]] = 0
    assert (free[0, :8] == BONE).any()
    assert not (free[0, 8:] == BONE).any()
    known = torch.full(maps.shape, -1)
    known[0, :, :, :16] = maps[0, :, :, :16].long()
    drawn = net.draw(maps, [torch.Generator().manual_seed(0)], STEPS, known=known)
    assert torch.equal(drawn[..., :16], maps[..., :16])
    assert not torch.equal(drawn[..., 16:], maps[..., 16:])


def test_other_classes_stay_and_every_case_is_drawn_by_itself() -> None:
    net = network()
    torch.nn.init.normal_(net.fine[-1].weight, std=2)
    maps = torch.stack([rod(ladder(low)) for low in (5, 6, 7)])
    drawn = net.draw(maps, [torch.Generator().manual_seed(k) for k in range(3)], STEPS)
    assert drawn.dtype == torch.uint8
    closed = torch.stack([~net.opened(m) for m in maps])
    assert torch.equal(drawn[closed], maps[closed])
    assert (drawn != maps).any(), "an untrained network draws something else"
    assert set(drawn[~closed].tolist()) == {0, BONE}
    again = net.draw(maps[1:2], [torch.Generator().manual_seed(1)], STEPS)
    assert torch.equal(again[0], drawn[1])
    other = net.draw(maps[1:2], [torch.Generator().manual_seed(9)], STEPS)
    assert not torch.equal(other[0], drawn[1])


def test_a_map_without_its_classes_is_left_as_it_is() -> None:
    organs = torch.ones(1, 16, 16, 16, dtype=torch.uint8)
    assert torch.equal(network().draw(organs, [torch.Generator()], STEPS), organs)


def test_a_spine_that_was_a_rod_gets_its_gaps_again() -> None:
    net = network().train()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(150):
        real = ladder(5 + step % 3)
        optimizer.zero_grad()
        detail_loss(net, real, rod(real), generator).backward()
        optimizer.step()
    real = ladder(6)
    coarse = rod(real)
    assert (pieces(real), pieces(coarse)) == (5, 1)
    drawn = net.eval().draw(coarse[None], [torch.Generator().manual_seed(1)], STEPS)[0]
    assert pieces(drawn) == 5
    assert (drawn == real).float().mean() > (coarse == real).float().mean()
    assert torch.equal(drawn == LESION, real == LESION)


def test_holes_are_cut_out_of_its_classes_alone() -> None:
    label_map = ladder().numpy()
    cut = np.zeros(label_map.shape, bool)
    for seed in range(30):
        out = broken(label_map, (0, BONE), (2.0, 2.0, 2.0), torch.Generator().manual_seed(seed))
        changed = out != label_map
        assert (label_map[changed] == BONE).all()
        assert not out[changed].any()
        cut |= changed
    assert cut[label_map == BONE].all(), "any voxel may be lost"
    organs = np.ones((4, 4, 4), np.uint8)
    assert broken(organs, (0, BONE), (2.0, 2.0, 2.0), torch.Generator()) is organs


def test_what_the_real_map_gives_to_another_class_teaches_nothing() -> None:
    net, real = network().train(), ladder()
    coarse = rod(real)
    altered = real.clone()
    altered[net.opened(coarse)] = 3
    detail_loss(net, altered, coarse, torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())
    detail_loss(net, real, coarse, torch.Generator().manual_seed(0)).backward()
    assert net.fine[0].weight.grad.any()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`prepared`, the runs of all stages on it, and the `model` they make."""
    folder = tmp_path_factory.mktemp("detail")
    train_little(folder, 6, "0.34", SHORT, {"detail": ["--classes", "liver"]})
    words = [str(folder / "masks"), str(folder / "slices"), "--detail", str(folder / "detail"), "--steps-detail", "3"]
    assert main(["export", *words, str(folder / "model")]) == 0
    return folder


def test_a_model_with_detail_draws_it_and_keeps_to_what_it_is_given(runs) -> None:
    pipe = GuideGenPipeline.from_pretrained(runs / "model", device="cpu")
    liver = pipe.anatomy.id_of("liver")
    assert pipe.detail_network.config.classes == [0, liver]
    assert pipe.config.num_steps_detail == 3
    calls, draw = [], pipe.detail_network.draw

    def drawn(maps, generators, num_steps, forbidden, known):
        calls.append((maps.clone(), num_steps))
        assert forbidden.shape[:2] == (1, pipe.anatomy.num_classes)
        return draw(maps, generators, num_steps, forbidden, known)

    pipe.detail_network.draw = drawn
    (case,) = pipe("The liver and the spleen are normal.", seed=1)
    assert [n for _, n in calls] == [3]
    known = torch.from_numpy(case.label_map).long()[None]
    (again,) = pipe("The liver and the spleen are normal.", seed=2, known=known)
    assert np.array_equal(again.label_map, case.label_map)


def test_a_model_without_detail_is_as_it_was(tmp_path) -> None:
    pipe = tiny_pipeline()
    assert pipe.detail_network is None
    pipe.save_pretrained(tmp_path / "model", safe_serialization=True)
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    for key in ("detail_network", "num_steps_detail"):
        index.pop(key, None)  # a folder from before there was detail
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    assert GuideGenPipeline.from_pretrained(tmp_path / "model").detail_network is None


def test_the_card_names_the_stage_and_its_sheets_are_drawn(runs) -> None:
    assert "| detail | tiny | 4 of 2 |" in (runs / "model" / "README.md").read_text()
    assert [p.name for p in sorted((runs / "detail" / "sheets").iterdir())] == ["step-0000002.png", "step-0000004.png"]


def test_a_run_that_starts_from_another_draws_its_classes(runs, tmp_path) -> None:
    words = ["train", "detail", str(runs / "prepared"), str(tmp_path / "next"), "--init", str(runs / "detail"), *SHORT]
    assert main(words) == 0
    assert json.loads((tmp_path / "next" / "model" / "config.json").read_text())["classes"] == [0, 1]


def test_other_classes_and_tables_than_a_run_has_are_refused(runs, tmp_path, capsys) -> None:
    words = ["train", "detail", str(runs / "prepared"), str(runs / "detail"), "--classes", "spleen", *SHORT]
    assert main(words) == 1
    assert "begun with other classes" in capsys.readouterr().err
    words = ["train", "detail", str(runs / "prepared"), str(tmp_path / "run"), "--init", "torso", *SHORT]
    assert main(words) == 1
    assert "name them with --classes" in capsys.readouterr().err


def test_cases_without_the_classes_teach_nothing(runs) -> None:
    anatomy = GuideGenPipeline.from_pretrained(runs / "model", device="cpu").anatomy
    paths = [p for p in case_paths(runs / "prepared" / "train") if not (load_label_map(p) == 3).any()]
    assert paths
    with pytest.raises(SourceError, match="none holds tumour"):
        _pair(paths, anatomy, (0, 3), torch.Generator())


def test_a_model_gets_detail_and_keeps_all_else(runs, tmp_path, capsys) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert main(["export", str(runs / "masks"), str(runs / "slices"), str(plain)]) == 0
    assert GuideGenPipeline.from_pretrained(plain, device="cpu").detail_network is None
    assert main(["export", str(plain), str(plain), str(out), "--detail", str(runs / "detail")]) == 0
    pipe = GuideGenPipeline.from_pretrained(out, device="cpu")
    assert pipe.detail_network is not None
    assert pipe.config.num_steps_detail == 6
    files = [p.relative_to(plain) for p in plain.rglob("*") if p.is_file()]
    changed = {f for f in files if (plain / f).read_bytes() != (out / f).read_bytes()}
    assert {str(p) for p in changed} == {"README.md", "model_index.json"}
    assert (out / "README.md").read_text().count("\n| detail | tiny | 4 of 2 |") == 1
    assert str(tmp_path) not in (out / "detail_network" / "config.json").read_text()
    for model in (plain, out):
        modes = {p.suffix: p.stat().st_mode for p in model.glob("*/*")}
        assert modes[".safetensors"] == modes[".json"], "whoever may read the model may read its weights"
    assert main(["export", str(plain), str(plain), str(tmp_path / "none")]) == 1
    assert "exported with another --decoder, --detail" in capsys.readouterr().err
    assert main(["export", "torso", "torso", str(tmp_path / "none"), "--detail", str(runs / "detail")]) == 1
    assert "learned another label table than torso" in capsys.readouterr().err
    words = ["export", str(plain), str(plain), str(tmp_path / "none"), "--detail", str(runs / "detail")]
    for more, told in ((["--steps-ct", "2"], "leave --steps-ct"), (["--steps-detail", "0"], "steps, got 0")):
        assert main([*words, *more]) == 1
        assert told in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main([*words[:3], str(runs / "model"), "--detail", str(runs / "detail")]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_a_model_gets_another_stage_1_and_keeps_all_else(runs, tmp_path, capsys) -> None:
    model, out, again = runs / "model", tmp_path / "out", tmp_path / "again"
    words = ["train", "masks", str(runs / "prepared"), str(again), "--init", str(model), "--recipe", "tiny"]
    assert main([*words, "--num-steps", "2", "--validate-every", "0"]) == 0
    assert main(["export", str(again), str(model), str(out)]) == 0
    files = [p.relative_to(model) for p in model.rglob("*") if p.is_file()]
    changed = {f for f in files if (model / f).read_bytes() != (out / f).read_bytes()}
    assert {"mask_sampler/diffusion_pytorch_model.safetensors", "README.md"} <= {str(p) for p in changed}
    assert {f.parts[0] for f in changed} <= {"README.md", "model_index.json", "mask_sampler"}
    assert (out / "README.md").read_text().count("\n| masks | tiny, from ") == 1
    pipe = GuideGenPipeline.from_pretrained(out, device="cpu")
    assert pipe.config.volume_ratio == json.loads((again / "volume_ratio.json").read_text())
    assert main(["export", str(again), "torso", str(tmp_path / "none")]) == 1
    assert "learned another label table than torso" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_card_without_a_table_of_stages_gets_one(runs) -> None:
    card = with_stage("# A model\n\nMade by hand.\n", "detail", run_facts(runs / "detail"))
    assert card.startswith("# A model\n\nMade by hand.\n\n## Added: detail\n")
    assert card.count("| detail |") == with_stage(card, "detail", run_facts(runs / "detail")).count("| detail |") == 1


def test_classes_that_cannot_be_drawn_are_refused(runs, tmp_path, capsys) -> None:
    train = ["train", "detail", str(runs / "prepared"), str(tmp_path / "run")]
    assert main([*train, *SHORT]) == 1
    assert "name them with --classes" in capsys.readouterr().err
    assert main([*train, "--classes", "femur", *SHORT]) == 1
    assert "no class 'femur'" in capsys.readouterr().err
    assert main([*train, "--classes", "background", *SHORT]) == 1
    assert "not of background" in capsys.readouterr().err
    words = ["train", "masks", str(runs / "prepared"), str(tmp_path / "masks"), "--classes", "liver", *SHORT]
    assert main(words) == 1
    assert "--classes is for detail" in capsys.readouterr().err
    words = ["export", str(runs / "masks"), str(runs / "slices"), "--detail", str(runs / "masks")]
    assert main([*words, str(tmp_path / "model")]) == 1
    assert "trained a MaskSampler, not a DetailNetwork" in capsys.readouterr().err
