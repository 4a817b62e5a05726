"""Fat, soft tissue and bone around the classes: drawn from the whole label map, told to the slices, never published."""

import json

import little_patients
import pytest
import torch
from tiny import tiny_pipeline

from guidegen_data.anatomy import TISSUES, TORSO
from guidegen_data.anatomy_files import anatomy_from
from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError
from guidegen_data.models.slice_generator import SliceGenerator
from guidegen_data.models.tissue import TissueNetwork, tissues_of
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.training.beside import autoencoder_beside, tissue_beside
from guidegen_data.training.latents import LatentData
from guidegen_data.training.tissue import tissue_loss

SHORT = ["--recipe", "tiny", "--num-steps", "6", "--validate-every", "3", "--device", "cpu"]
SMALL = {"channels": (8, 8, 16), "num_res_units": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`prepared`, the runs of all stages on it, slices told of tissues, and the `model` they make."""
    folder = tmp_path_factory.mktemp("tissue")
    little_patients.write_nifti(folder / "src", 6)
    data, table = str(folder / "prepared"), str(folder / "src" / "anatomy.yaml")
    words = ["prepare", "nifti", str(folder / "src"), data, "--anatomy", table, "--validation-share", "0.34"]
    assert main(words) == 0
    beside = ["--autoencoder", str(folder / "autoencoder"), "--tissue", str(folder / "tissue")]
    for stage in ("autoencoder", "masks", "tissue", "slices"):
        more = beside if stage == "slices" else []
        assert main(["train", stage, data, str(folder / stage), *more, *SHORT]) == 0
    assert main(["export", str(folder / "masks"), str(folder / "slices"), str(folder / "model")]) == 0
    return folder


def test_tissues_are_told_apart_by_their_hu() -> None:
    hu = torch.tensor([-1000, -301, -300, -31, -30, 159, 160, 3000])
    assert tissues_of(hu).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_only_background_is_filled_and_every_map_by_itself() -> None:
    torch.manual_seed(0)
    network = TissueNetwork(num_classes=4, **SMALL).eval()
    torch.nn.init.normal_(network.head.weight, std=2)
    maps = torch.randint(4, (3, 16, 16, 16), dtype=torch.uint8)
    filled = network.fill(maps)
    assert filled.dtype == torch.uint8
    assert torch.equal(filled[maps > 0], maps[maps > 0])
    assert set(filled[maps == 0].tolist()) == {0, 4, 5, 6}
    assert torch.equal(network.fill(maps[1:2])[0], filled[1])


def test_what_lies_around_an_organ_is_learned_from_its_place() -> None:
    torch.manual_seed(0)
    tissues = torch.zeros(1, 16, 16, 16, dtype=torch.int64)
    tissues[:, 2:14, 2:14, 2:14], tissues[:, 4:12, 4:12, 4:12] = 1, 2
    label_map = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    label_map[:, 6:10, 6:10, 6:10] = 1
    network = TissueNetwork(num_classes=2, **SMALL)
    optimizer = torch.optim.Adam(network.parameters(), 2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        tissue_loss(network(label_map), label_map, tissues)["total"].backward()
        optimizer.step()
    filled = network.eval().fill(label_map)
    expected = torch.where(label_map > 0, 1, torch.where(tissues > 0, tissues + 1, 0))
    assert (filled == expected).float().mean() > 0.93  # corners are rounded


def test_voxels_of_a_class_teach_nothing_of_tissues() -> None:
    label_map, tissues = torch.ones(1, 4, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4, 4, dtype=torch.int64)
    label_map[0, 0, 0, 0] = 0
    logits = torch.zeros(1, 4, 4, 4, 4, requires_grad=True)
    tissue_loss(logits, label_map, tissues)["total"].backward()
    changed = logits.grad.abs().sum(dim=1)[0] > 0
    assert changed.nonzero().tolist() == [[0, 0, 0]]


def test_slices_that_were_told_of_no_tissues_draw_as_before_when_they_are() -> None:
    torch.manual_seed(0)
    sizes = {"latent_channels": 4, "channels": (16, 16, 32), "vector_size": 16, "mask_features": 8}
    maps = torch.randint(4, (2, 3, 16, 16), dtype=torch.uint8)
    filled = torch.where(maps == 0, torch.randint(4, 7, maps.shape), maps).to(torch.uint8)
    hu = torch.tensor([[torch.nan, 50, 60, torch.nan]] * 2)
    of_tissues = torch.full((2, len(TISSUES)), torch.nan)
    wide = SliceGenerator(num_classes=4 + len(TISSUES), organ_hu=True, tissues=True, **sizes)
    for told in (True, False):
        known = SliceGenerator(num_classes=4, organ_hu=told, **sizes)
        name = "mask_encoder.0.weight"
        held = {k: v for k, v in known.state_dict().items() if k.startswith("mask_encoder.")}
        grown = wide.widened(name, held[name], known.config)
        wide.load_state_dict(held | {name: grown}, strict=False)
        expected = known.encode_mask(maps, hu if told else None)
        torch.testing.assert_close(wide.encode_mask(filled, torch.cat([hu, of_tissues], dim=1)), expected)
    assert torch.equal(wide.widened(name, wide.mask_encoder[0].weight, wide.config), wide.mask_encoder[0].weight)
    # Three more classes in a table are no tissues.
    larger = SliceGenerator(num_classes=4 + len(TISSUES), organ_hu=True, **sizes)
    assert larger.widened(name, held[name], known.config) is None


def test_a_loose_previous_slice_is_missing_or_further_below_in_two_of_three() -> None:
    depth = 40
    latents = torch.arange(depth).view(1, depth, 1, 1, 1).expand(1, depth, 1, 2, 2).half()
    maps = torch.zeros(1, 8, 8, depth, dtype=torch.uint8)
    rest = torch.zeros(1, 2, 3, 4), torch.zeros(1, 4), torch.zeros(1, 4, 2), torch.zeros(1)
    data = LatentData(latents, maps, *rest)
    for loose, shares in ((False, (1 / 12, 0)), (True, (1 / 3, 1 / 3))):
        batch = data.batch(6000, torch.Generator().manual_seed(0), loose)
        below = (batch["latents"] - batch["previous"])[:, 0, 0, 0]
        inner = batch["latents"][:, 0, 0, 0] > 10
        first = ~batch["has_previous"][inner]
        far = (below[inner] > 1) & ~first
        assert (first.float().mean(), far.float().mean()) == pytest.approx(shares, abs=0.03)
        assert below[inner].max() <= 8
        assert below[inner].min() == 1


def test_a_model_with_tissues_tells_them_to_its_slices_and_publishes_none(runs, monkeypatch) -> None:
    pipe = GuideGenPipeline.from_pretrained(runs / "model", device="cpu")
    num_classes = pipe.anatomy.num_classes
    assert pipe.slice_generator.config.num_classes == num_classes + len(TISSUES)
    torch.nn.init.constant_(pipe.tissue_network.head.bias, -9)
    with torch.no_grad():
        pipe.tissue_network.head.bias[16:24] = 9  # soft tissue everywhere
    told, encode = [], pipe.slice_generator.encode_mask

    def encode_mask(labels, class_hu):
        told.append((labels, class_hu))
        return encode(labels, class_hu)

    monkeypatch.setattr(pipe.slice_generator, "encode_mask", encode_mask)
    case = pipe("CT of the two organs.", seed=1)[0]
    assert case.label_map.max() < num_classes
    seen = torch.cat([labels for labels, _ in told]).unique().tolist()
    assert set(seen) <= {1, 2, 3, num_classes + 1}
    assert num_classes + 1 in seen
    assert told[0][1].shape[1] == num_classes + len(TISSUES)
    # Of the classes alone: they can be asked for as they were told.
    assert set(case.provenance["organ_hu"]) <= {"liver", "spleen"}
    pipe("CT of the two organs.", seed=1, organ_hu=case.provenance["organ_hu"])
    hu = torch.full((1, num_classes), 50.0)
    ct = pipe.sample_cts(torch.from_numpy(case.label_map)[None], pipe.encode(["CT"]), [torch.Generator()], organ_hu=hu)
    assert ct.shape == (1, *case.label_map.shape)


def test_a_model_without_tissues_is_as_it_was(tmp_path) -> None:
    pipe = tiny_pipeline()
    assert pipe.tissue_network is None
    pipe.save_pretrained(tmp_path / "model", safe_serialization=True)
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    index.pop("tissue_network", None)  # a folder from before there were tissues
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    assert GuideGenPipeline.from_pretrained(tmp_path / "model").tissue_network is None
    assert tissue_beside(None, str(tmp_path / "model"), TORSO) is None


def test_slices_that_start_from_a_model_are_told_of_its_tissues(runs, tmp_path) -> None:
    for number, start in enumerate((runs / "model", runs / "slices")):
        words = ["--init", str(start), *SHORT]  # and with its autoencoder
        assert main(["train", "slices", str(runs / "prepared"), str(tmp_path / str(number)), *words]) == 0
        config = json.loads((tmp_path / str(number) / "model" / "config.json").read_text())
        assert config["num_classes"] == 4 + len(TISSUES)
        assert config["uneven_by_phase"]
        assert (tmp_path / str(number) / "tissue_network" / "config.json").exists()
    about = json.loads((tmp_path / "1" / "about.json").read_text())
    assert about["tissue"]["steps"] == about["autoencoder"]["steps"] == 6


def test_a_run_begun_without_tissues_is_not_gone_on_with_with_some(runs, tmp_path, capsys) -> None:
    data, beside = str(runs / "prepared"), str(runs / "autoencoder")
    words = ["train", "slices", data, str(tmp_path / "run"), "--autoencoder", beside, *SHORT]
    assert main(words) == 0
    assert main([*words, "--tissue", str(runs / "tissue")]) == 1
    assert "was begun with other --tissue; give the same as then, or another run folder" in capsys.readouterr().err
    (tmp_path / "run" / "about.json").unlink()  # what is kept of the latents tells, too
    assert main([*words, "--tissue", str(runs / "tissue")]) == 1
    assert "was begun without tissues; use the same ones, or another run folder" in capsys.readouterr().err
    assert not (tmp_path / "run" / "tissue_network").exists()


def test_borders_of_another_table_are_left_behind(runs) -> None:
    own = anatomy_from(runs / "prepared" / "anatomy.yaml")
    bare, held = (autoencoder_beside(None, "torso", anatomy) for anatomy in (own, TORSO))
    assert (bare.config.num_classes, held.config.num_classes) == (0, TORSO.num_classes)
    ct = torch.zeros(1, 1, 32, 32)
    assert torch.equal(bare.encode(ct), held.encode(ct))


def test_the_card_names_the_stage_and_its_sheets_are_drawn(runs) -> None:
    assert "| tissue | tiny | 6 of 2 |" in (runs / "model" / "README.md").read_text()
    assert [p.name for p in sorted((runs / "tissue" / "sheets").iterdir())] == ["step-0000003.png", "step-0000006.png"]


def test_runs_in_the_wrong_place_are_not_exported(runs, tmp_path, capsys) -> None:
    assert main(["export", str(runs / "slices"), str(runs / "masks"), str(tmp_path / "model")]) == 1
    assert "trained a SliceGenerator, not a MaskSampler" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_tissues_of_another_table_and_for_another_stage_are_refused(runs, tmp_path, capsys) -> None:
    with pytest.raises(ModelError, match="around other classes than those of the torso table"):
        tissue_beside(runs / "tissue", None, TORSO)
    with pytest.raises(ModelError, match="trained a SliceGenerator, not a TissueNetwork"):
        tissue_beside(runs / "slices", None, TORSO)
    # Where they only come with what is started from, they are left out.
    assert tissue_beside(None, str(runs / "model"), TORSO) is None
    assert "another label table" in capsys.readouterr().err
    words = ["--tissue", str(runs / "tissue"), *SHORT]
    assert main(["train", "masks", str(runs / "prepared"), str(tmp_path / "masks"), *words]) == 1
    assert "--tissue is for slices, not for masks" in capsys.readouterr().err
