"""Fat in the soft tissue of a table: drawn from the label map in 3-D, told to the slices, never published."""

import json

import little_patients
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage

from guidegen_data.anatomy import HEAD_NECK, TORSO
from guidegen_data.anatomy_files import anatomy_from
from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError
from guidegen_data.models.fat import FatNetwork
from guidegen_data.models.slice_generator import SliceGenerator
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.tissue_rule import fat_class
from guidegen_data.training.beside import tissue_part
from guidegen_data.training.detail import detail_loss

SHORT = ["--recipe", "tiny", "--num-steps", "4", "--validate-every", "2", "--device", "cpu"]
SMALL = {"channels": (8, 8, 16), "num_res_units": 0, "fine_channels": 4}
ORGAN, SOFT, FAT = 1, 2, 3
SOFT_OF_TABLE = 4


def network() -> FatNetwork:
    torch.manual_seed(0)
    return FatNetwork(num_classes=FAT + 1, classes=(SOFT, FAT), **SMALL).eval()


def body() -> torch.Tensor:
    """A body with an organ in it, (X, Y, Z) uint8."""
    label_map = torch.zeros(16, 16, 16, dtype=torch.uint8)
    label_map[2:14, 2:14, 2:14], label_map[6:10, 6:10, 6:10] = SOFT, ORGAN
    return label_map


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_only_soft_tissue_cut_out_by_hu_holds_fat() -> None:
    assert fat_class(HEAD_NECK) == HEAD_NECK.ids["soft tissue"]
    assert fat_class(TORSO) is None


def test_fat_is_drawn_in_its_class_alone_and_from_each_generator_by_itself() -> None:
    maps, fat = torch.stack([body(), body().flip(0).roll(1, 0)]), network()
    torch.nn.init.normal_(fat.fine[-1].weight, std=2)
    filled = fat.fill(maps, seeded(1, 2))
    assert torch.equal(filled[maps != SOFT], maps[maps != SOFT])
    assert set(filled[maps == SOFT].tolist()) == {SOFT, FAT}
    assert torch.equal(fat.fill(maps[1:], seeded(2))[0], filled[1])
    assert not torch.equal(fat.fill(maps[:1], seeded(3))[0], filled[0])


def test_as_much_fat_is_drawn_as_is_expected_where_it_is_likeliest() -> None:
    chance = torch.linspace(0.05, 0.45, 8).view(1, 8, 1, 1)  # nowhere likelier than not: two of eight are expected
    free = torch.ones_like(chance, dtype=torch.bool)
    assert network()._decided(torch.stack([1 - chance, chance], dim=1), free).flatten().tolist() == [0] * 6 + [1] * 2
    free[:, -1] = False  # and of seven about one and a half
    decided = network()._decided(torch.stack([1 - chance, chance], dim=1), free).flatten().tolist()
    assert decided == [0] * 5 + [1] * 2 + [0]
    assert not network()._decided(torch.stack([1 - chance, chance], dim=1), free & False).any()


def test_slices_learn_from_the_fat_of_the_ct_where_the_label_map_has_soft_tissue() -> None:
    label_map = body()
    hu = torch.full(label_map.shape, 40.0)
    hu[:8], hu[:, :, :3] = -80.0, -600.0  # fat in one half, of organ and air too; gas lies in no fat
    told = network().told(label_map, hu)
    fat = (label_map == SOFT) & (hu == -80)
    assert torch.equal(told == FAT, fat)
    assert torch.equal(told[~fat], label_map[~fat])


def test_where_fat_lies_is_learned_from_the_body() -> None:
    label_map, fat = body(), network().train()
    real = label_map.clone()
    inner = torch.zeros_like(label_map, dtype=torch.bool)
    inner[4:12, 4:12, 4:12] = True
    real[(label_map == SOFT) & ~inner] = FAT  # under the skin
    optimizer, generator = torch.optim.Adam(fat.parameters(), 2e-2), seeded(0)[0]
    for _ in range(80):
        optimizer.zero_grad()
        detail_loss(fat, real, label_map, generator).backward()
        optimizer.step()
    filled = fat.eval().fill(label_map[None], seeded(5))[0]
    assert (filled == real).float().mean() > 0.95


def test_slices_that_were_told_of_no_fat_take_it_for_the_soft_tissue_that_it_lay_in() -> None:
    torch.manual_seed(0)
    sizes = {"latent_channels": 4, "channels": (16, 16, 32), "vector_size": 16, "mask_features": 8}
    maps = torch.randint(FAT, (2, 3, 16, 16), dtype=torch.uint8)
    some = torch.rand(maps.shape) < 0.5
    filled = torch.where((maps == SOFT) & some, FAT, maps).to(torch.uint8)
    known = SliceGenerator(num_classes=FAT, **sizes)
    wide = SliceGenerator(num_classes=FAT + 1, tissues=True, tissues_within=SOFT, **sizes)
    held, name = known.state_dict(), "mask_encoder.0.weight"
    wide.load_state_dict(held | {name: wide.widened(name, held[name], known.config)}, strict=False)
    torch.testing.assert_close(wide.encode_mask(filled), known.encode_mask(maps))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`prepared` with soft tissue cut out by HU, fat under the skin; runs of all stages, and the `model` they make."""
    folder = tmp_path_factory.mktemp("fat")
    (folder / "src").mkdir()
    for k in range(4):
        ct, label = little_patients.patient(k)
        muscle = ndimage.binary_erosion(ct > -300, iterations=3) & (label == 0)
        ct[muscle] = 40
        little_patients.save(ct, folder / "src" / f"p{k}_ct.nii.gz")
        little_patients.save(label, folder / "src" / f"p{k}_label.nii.gz")
    (folder / "src" / "classes.json").write_text(json.dumps(little_patients.CLASSES))
    soft = f"  - {{id: {SOFT_OF_TABLE}, name: soft tissue, tissue_hu: [-300, 250]}}\norgans:"
    text = little_patients.ANATOMY.replace("name: two-organs", "name: with-a-body").replace("organs:", soft)
    (folder / "src" / "anatomy.yaml").write_text(text)
    data, table = str(folder / "prepared"), str(folder / "src" / "anatomy.yaml")
    words = ["prepare", "nifti", str(folder / "src"), data, "--anatomy", table, "--validation-share", "0.34"]
    assert main(words) == 0
    beside = ["--autoencoder", str(folder / "autoencoder"), "--loose-tissues"]
    more = {"slices": [*beside, "--tissue", str(folder / "tissue")], "untold": beside}
    for run in ("autoencoder", "masks", "tissue", "slices", "untold"):
        stage = "slices" if run == "untold" else run
        assert main(["train", stage, data, str(folder / run), *more.get(run, []), *SHORT]) == 0
    assert main(["export", str(folder / "masks"), str(folder / "slices"), str(folder / "model")]) == 0
    assert main(["export", str(folder / "masks"), str(folder / "untold"), str(folder / "untold-model")]) == 0
    return folder


def weights(folder, part: str) -> dict[str, torch.Tensor]:
    return load_file(folder / part / "diffusion_pytorch_model.safetensors")


def test_a_table_with_a_body_gets_a_network_of_fat_and_slices_that_know_muscle_by_itself(runs) -> None:
    assert json.loads((runs / "tissue" / "model" / "config.json").read_text())["_class_name"] == "FatNetwork"
    assert [p.name for p in sorted((runs / "tissue" / "sheets").iterdir())] == ["step-0000002.png", "step-0000004.png"]
    held = torch.load(runs / "slices" / "latents.pt", weights_only=True)
    soft, fat = held["class_hu"][:, SOFT_OF_TABLE], held["class_hu"][:, SOFT_OF_TABLE + 1]
    assert (soft.mean(), fat.mean()) == (pytest.approx(40, abs=15), pytest.approx(-80, abs=15))
    assert bool((held["labels"] == SOFT_OF_TABLE + 1).any())


def test_a_model_tells_its_slices_of_fat_and_publishes_none(runs, monkeypatch) -> None:
    pipe = GuideGenPipeline.from_pretrained(runs / "model", device="cpu")
    fat = pipe.anatomy.num_classes
    torch.nn.init.normal_(pipe.tissue_network.fine[-1].weight, std=2)
    told, encode = [], pipe.slice_generator.encode_mask

    def encode_mask(labels, class_hu):
        told.append(labels)
        return encode(labels, class_hu)

    monkeypatch.setattr(pipe.slice_generator, "encode_mask", encode_mask)
    tokens, label_map = pipe.encode(["CT"]), torch.full((1, 32, 32, 32), SOFT_OF_TABLE, dtype=torch.uint8)
    cts = [pipe.sample_cts(label_map, tokens, seeded(4)) for _ in range(2)]
    assert fat in torch.cat(told).unique()
    assert torch.equal(*cts)
    case = pipe("The liver is enlarged.", seed=1)[0]
    assert case.label_map.max() < fat
    assert set(case.provenance["organ_hu"]) <= {"liver", "spleen", "soft tissue"}


def test_slices_and_fat_of_other_runs_are_put_into_a_model(runs, tmp_path, capsys) -> None:
    own, data = anatomy_from(runs / "prepared" / "anatomy.yaml"), str(runs / "prepared")
    words = ["export", str(runs / "untold-model"), str(runs / "slices"), str(tmp_path / "told")]
    assert main([*words, "--guidance", "2"]) == 1  # that is of stage 1, which stays
    assert "leave --guidance" in capsys.readouterr().err
    assert main([*words, "--steps-ct", "2"]) == 0
    steps = [json.loads((m / "model_index.json").read_text()) for m in (runs / "untold-model", tmp_path / "told")]
    assert [index["num_steps_ct"] for index in steps] == [3, 2]
    assert {k for k in steps[0] if steps[0][k] != steps[1][k]} == {"num_steps_ct", "tissue_network"}
    for part in ("slice_generator", "tissue_network", "mask_sampler", "autoencoder"):
        of_runs, of_model = weights(runs / "model", part), weights(tmp_path / "told", part)
        assert all(torch.equal(of_model[name], value) for name, value in of_runs.items())
    assert "| tissue | tiny |" in (tmp_path / "told" / "README.md").read_text()
    assert main(["export", str(tmp_path / "told"), str(runs / "untold"), str(tmp_path / "untold")]) == 0
    assert GuideGenPipeline.from_pretrained(tmp_path / "untold", device="cpu").tissue_network is None
    assert not (tmp_path / "untold" / "tissue_network").exists()
    assert "| tissue |" not in (tmp_path / "untold" / "README.md").read_text()
    again = ["--init", str(runs / "tissue"), *SHORT, "--learning-rate", "0.1"]
    assert main(["train", "tissue", data, str(tmp_path / "fat"), *again]) == 0
    words = ["export", str(runs / "model"), str(runs / "model"), str(tmp_path / "other"), "--fat"]
    assert main([*words, str(tmp_path / "fat")]) == 0
    name = "fine.0.weight"
    trained = load_file(tmp_path / "fat" / "best" / "diffusion_pytorch_model.safetensors")[name].half()
    assert torch.equal(weights(tmp_path / "other", "tissue_network")[name], trained)
    assert GuideGenPipeline.from_pretrained(tmp_path / "other", device="cpu").anatomy.name == own.name


def test_a_damaged_network_of_fat_is_refused_in_words(tmp_path) -> None:
    network().save_pretrained(tmp_path)
    assert isinstance(tissue_part(tmp_path), FatNetwork)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError):
        tissue_part(tmp_path)


def test_fat_is_not_put_where_slices_know_none(runs, tmp_path, capsys) -> None:
    model = str(runs / "untold-model")
    assert main(["export", model, model, str(tmp_path / "out"), "--fat", str(runs / "tissue")]) == 1
    assert "were not told of fat" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_slices_learned_from_does_not_hang_on_the_weights_that_will_draw_it() -> None:
    one, other = network(), FatNetwork(num_classes=FAT + 1, classes=(SOFT, FAT), **SMALL)
    assert one.told_by(lambda held: str(held)) == other.told_by(lambda held: str(held))
