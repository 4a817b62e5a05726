"""A decoder that knows the label slice: trained after stage 2, in the latents that stage 2 has."""

import json
import shutil

import little_patients
import numpy as np
import pytest
import torch

from guidegen_data import HEAD_NECK, Findings
from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError
from guidegen_data.models.autoencoder import CTAutoencoder, compand
from guidegen_data.models.folder import model_folder
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import case_paths, load_case, save_case
from guidegen_data.training import decoder
from guidegen_data.training.adversarial import BesideDiscriminator, texture_gap
from guidegen_data.training.ct_slices import AIR_HU, SliceSource
from guidegen_data.training.decoder import decoder_loss
from guidegen_data.training.run_state import load_part

SHORT = ["--recipe", "tiny", "--num-steps", "8", "--validate-every", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`prepared`, and the runs of all stages on it."""
    folder = tmp_path_factory.mktemp("decoder")
    little_patients.write_nifti(folder / "src", 4)
    data, table = str(folder / "prepared"), str(folder / "src" / "anatomy.yaml")
    assert main(["prepare", "nifti", str(folder / "src"), data, "--anatomy", table]) == 0
    for stage, given in (("autoencoder", ""), ("masks", ""), ("slices", "autoencoder"), ("decoder", "slices")):
        extra = ["--autoencoder", str(folder / given)] if given else []
        assert main(["train", stage, data, str(folder / stage), *extra, *SHORT]) == 0
    return folder


def test_labels_change_nothing_before_they_were_learned() -> None:
    model = CTAutoencoder(latent_channels=3, block_out_channels=(8, 16), num_classes=4)
    latents, labels = torch.randn(2, 3, 8, 8), torch.randint(4, (2, 32, 32), dtype=torch.uint8)
    assert torch.equal(model.decode(latents, labels), model.decode(latents))
    torch.nn.init.normal_(model.guide.write.weight)
    assert not torch.equal(model.decode(latents, labels), model.decode(latents))


def test_a_decoder_without_a_guide_takes_no_notice_of_labels() -> None:
    model = CTAutoencoder(latent_channels=3, block_out_channels=(8, 16))
    latents = torch.randn(1, 3, 8, 8)
    assert torch.equal(model.decode(latents, torch.ones(1, 32, 32, dtype=torch.uint8)), model.decode(latents))


def test_the_latents_stay_and_the_decoder_does_not(runs) -> None:
    before = load_part(CTAutoencoder, runs / "slices" / "autoencoder")
    after = load_part(CTAutoencoder, runs / "decoder" / "model")
    ct = torch.from_numpy(load_case(case_paths(runs / "prepared" / "train")[0]).ct_hu).permute(2, 0, 1)[:, None].float()
    latents = before.encode(ct)
    assert torch.equal(after.encode(ct), latents)
    assert not torch.equal(after.decode(latents), before.decode(latents))


def test_learned_from_pairs_the_labels_tell_what_the_latents_cannot() -> None:
    torch.manual_seed(0)
    label = (torch.rand(32, 32, 8) < 0.5).to(torch.uint8)  # finer than any latent
    ct = torch.where(label > 0, 200.0, -100.0).short()
    source = SliceSource([ct], 32, [label])
    model = CTAutoencoder(latent_channels=2, block_out_channels=(8, 8), num_classes=2)
    model.vae.encoder.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        loss = decoder_loss(model, *source.pairs(4, generator), generator)[0]["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cts, labels = source.pairs(8, torch.Generator().manual_seed(1000))
    latents = model.encode(cts)
    with torch.no_grad():
        errors = [float((model.decode(latents, given) - cts).abs().mean()) for given in (labels, 1 - labels)]
    assert errors[0] < 0.7 * errors[1]


def test_label_slices_move_as_their_ct_slices_do() -> None:
    disc = (torch.arange(32)[:, None] - 9) ** 2 + (torch.arange(32)[None] - 12) ** 2 < 25
    label = disc[:, :, None].repeat(1, 1, 4).to(torch.uint8)
    source = SliceSource([torch.where(label > 0, 600.0, AIR_HU).short()], 32, [label])
    cts, labels = source.pairs(64, torch.Generator().manual_seed(0))
    assert cts.shape == (64, 1, 32, 32)
    assert labels.dtype == torch.uint8
    agree = (cts[:, 0] > -200) == (labels > 0)
    assert float(agree.float().mean()) > 0.985
    assert labels.flatten(1).any(dim=1).float().mean() > 0.8
    centres = torch.stack([torch.nonzero(m).float().mean(dim=0) for m in labels if m.any()])
    assert (centres[:, 0] < 24).all()  # never mirrored


def test_an_exported_model_decodes_with_the_labels_and_its_card_tells_of_the_stage(runs, tmp_path) -> None:
    out = tmp_path / "model"
    words = ["export", str(runs / "masks"), str(runs / "slices"), str(out), "--decoder", str(runs / "decoder")]
    assert main(words) == 0
    assert "| decoder | tiny |" in (out / "README.md").read_text()
    pipe = GuideGenPipeline.from_pretrained(model_folder(str(out)), device="cpu")
    assert pipe.autoencoder.config.num_classes == pipe.anatomy.num_classes
    torch.nn.init.normal_(pipe.autoencoder.guide.write.weight)
    shape = pipe.anatomy.shape
    maps = torch.zeros(2, *shape, dtype=torch.uint8)
    maps[1, 8:24, 8:24, 8:24] = 1
    pipe.slice_generator.requires_grad_(False)
    cts = [
        pipe.sample_cts(m[None], pipe.encode(["CT."]), [torch.Generator().manual_seed(0)], 1)[0].float() for m in maps
    ]
    change = (cts[0] - cts[1]).abs()
    inside, outside = maps[1] > 0, torch.zeros(shape, dtype=torch.bool)
    outside[28:, 28:, :4] = True
    assert change[inside].mean() > 2 * change[outside].mean()


def test_a_model_gets_another_decoder_and_keeps_all_else(runs, tmp_path, capsys) -> None:
    model, run, out = tmp_path / "model", tmp_path / "run", tmp_path / "out"
    assert main(["export", str(runs / "masks"), str(runs / "slices"), str(model)]) == 0
    words = ["train", "decoder", str(runs / "prepared"), str(run), *SHORT, "--autoencoder", str(model)]
    assert main(words) == 0
    assert main(["export", str(model), str(model), str(out), "--decoder", str(run)]) == 0
    files = [p.relative_to(model) for p in model.rglob("*") if p.is_file()]
    changed = {str(f) for f in files if (model / f).read_bytes() != (out / f).read_bytes()}
    assert "autoencoder/diffusion_pytorch_model.safetensors" in changed
    assert changed <= {"README.md", "autoencoder/diffusion_pytorch_model.safetensors", "autoencoder/config.json"}
    assert (out / "README.md").read_text().count("\n| decoder | tiny |") == 1
    held = [load_part(CTAutoencoder, folder / "autoencoder") for folder in (model, out)]
    ct_hu = torch.linspace(-1000, 1000, 32 * 32).reshape(1, 1, 32, 32)
    assert torch.equal(*(part.encode(ct_hu) for part in held))
    assert main(["export", "torso", "torso", str(tmp_path / "none"), "--decoder", str(run)]) == 1
    assert "learned another label table than torso" in capsys.readouterr().err
    with torch.no_grad():
        (other := load_part(CTAutoencoder, run / "model")).latent_std.mul_(1.5)
    other.save_pretrained(run / "model")
    words = ["export", str(model), str(model), str(tmp_path / "none"), "--decoder", str(run), "--checkpoint", "last"]
    assert main(words) == 1
    assert "decodes other latents than those of" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_decoder_needs_the_slices_it_is_for(runs, tmp_path, capsys) -> None:
    words = ["train", "decoder", str(runs / "prepared"), str(tmp_path / "run"), *SHORT]
    assert main(words) == 1
    assert "--autoencoder RUN" in capsys.readouterr().err
    assert main([*words, "--autoencoder", str(runs / "slices"), "--init", "torso"]) == 1
    assert "leave --init" in capsys.readouterr().err
    with pytest.raises(ModelError, match="no trained CTAutoencoder"):
        load_part(CTAutoencoder, tmp_path)


def test_a_decoder_is_trained_in_the_latents_of_slices_and_exported_with_those_alone(runs, tmp_path, capsys) -> None:
    words = ["train", "decoder", str(runs / "prepared"), str(tmp_path / "run"), *SHORT]
    assert main([*words, "--autoencoder", str(runs / "autoencoder")]) == 1
    assert f"{runs / 'autoencoder'} holds none, give the run of slices" in capsys.readouterr().err
    out = tmp_path / "model"
    words = ["export", str(runs / "masks"), str(runs / "slices"), str(out), "--decoder"]
    # Its latents are not standardised.
    assert main([*words, str(runs / "autoencoder")]) == 1
    assert f"{runs / 'autoencoder'} decodes other latents than those of {runs / 'slices'}" in capsys.readouterr().err
    assert main([*words, str(runs / "slices")]) == 1
    assert "trained a SliceGenerator, not a CTAutoencoder" in capsys.readouterr().err
    other = shutil.copytree(runs / "decoder", tmp_path / "decoder")
    table = (other / "anatomy.yaml").read_text()
    (other / "anatomy.yaml").write_text(table.replace("name: spleen", "name: kidney"))
    assert main([*words, str(other)]) == 1
    assert f"{other} learned another label table than two-organs" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("of_model", [False, True])
def test_beside_slices_that_draw_the_detail_of_tissues_it_learns_from_tissues_as_smooth_as_stage_1s(
    runs, tmp_path, monkeypatch, of_model
) -> None:
    slices = tmp_path / "slices"
    shutil.copytree(runs / "slices" / "autoencoder", slices / "autoencoder")
    config = slices / ("slice_generator" if of_model else "model") / "config.json"
    config.parent.mkdir()
    given = []

    def seen(paths, size, workers, read) -> SliceSource:
        given.append((read.anatomy.name, read.loose_tissues))
        return pairs(paths, size, workers, read)

    pairs = decoder._pairs
    monkeypatch.setattr(decoder, "_pairs", seen)
    for number, loose in enumerate((True, False)):
        config.write_text(json.dumps({"loose_tissues": loose}))
        words = ["train", "decoder", str(runs / "prepared"), str(tmp_path / f"run{number}"), *SHORT]
        assert main([*words, "--autoencoder", str(slices)]) == 0
    assert given == [("two-organs", True), ("two-organs", False)]


def test_smooth_tissues_leave_every_organ_where_it_is(tmp_path) -> None:
    labels = np.full((48, 48, 48), HEAD_NECK.ids["soft tissue"], np.uint8)
    labels[np.random.default_rng(0).random(labels.shape) < 0.3] = HEAD_NECK.ids["bone"]
    labels[20:30, 20:30, 20:30] = HEAD_NECK.ids["larynx"]
    ct_hu = np.where(labels == HEAD_NECK.ids["bone"], 700.0, 40.0)
    path = tmp_path / "case-000000.npz"
    save_case(path, TrainingCase(labels, ct_hu, Findings(region="neck", anatomy_name="head-neck"), "pt_1"))
    read = [decoder._PairReader(HEAD_NECK, loose) for loose in (False, True)]
    exact, smooth = (decoder._pairs([path], 48, 1, r).label_maps[0].numpy() for r in read)
    assert np.array_equal(exact, labels)
    assert np.array_equal(smooth == HEAD_NECK.ids["larynx"], labels == HEAD_NECK.ids["larynx"])
    borders = [np.count_nonzero(np.diff((m == HEAD_NECK.ids["bone"]).astype(int), axis=0)) for m in (exact, smooth)]
    assert borders[1] < borders[0] / 3


@pytest.mark.parametrize(("weight", "moves_decoder"), [(0.0, False), (1.0, True)])
def test_a_discriminator_is_moved_by_its_own_loss_and_moves_the_decoder_by_its_weight(weight, moves_decoder) -> None:
    torch.manual_seed(0)
    both = BesideDiscriminator(CTAutoencoder(latent_channels=2, block_out_channels=(8, 8), num_classes=2), 2)
    ct, labels = torch.randn(2, 1, 64, 64) * 100, torch.randint(2, (2, 64, 64), dtype=torch.uint8)

    def nothing_else(model, ct_hu, labels, generator):
        output = model.decode_companded(model.encode(ct_hu), labels)
        return {"total": output.sum() * 0}, output

    def gradients(part: str) -> float:
        model = getattr(both, part)
        return sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)

    losses = both.loss(ct, labels, nothing_else, weight, torch.Generator())
    losses["total"].backward()
    moved, discriminator = gradients("autoencoder"), gradients("discriminator")
    assert (moved > 0) == moves_decoder
    both.zero_grad()
    both.loss(ct, labels, nothing_else, 0.0, torch.Generator())["total"].backward()
    assert gradients("discriminator") == pytest.approx(discriminator)  # whatever the decoder is told


def test_fine_structure_of_half_the_strength_is_an_octave_off() -> None:
    torch.manual_seed(0)
    ct = torch.randn(2, 1, 32, 32) * 20
    assert float(texture_gap(compand(ct), compand(ct), ct)) == 0
    half = compand(ct).mean() + 0.5 * (compand(ct) - compand(ct).mean())
    assert float(texture_gap(half, compand(ct), ct)) == pytest.approx(1, abs=1e-3)
    air = torch.full_like(ct, -1000.0)
    assert float(texture_gap(air, air, air)) == 0


def test_an_adversarial_decoder_resumes_exactly_and_is_saved_without_its_discriminator(runs, tmp_path, capsys) -> None:
    words = ["train", "decoder", str(runs / "prepared"), "--autoencoder", str(runs / "slices"), *SHORT]
    adversarial = [*words[:3], "RUN", *words[3:], "--num-steps", "12", "--adversarial", "0.02"]
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    assert main([whole if w == "RUN" else w for w in adversarial]) == 0
    plain, made = (
        load_part(CTAutoencoder, run / "model").state_dict() for run in (runs / "decoder", tmp_path / "whole")
    )
    assert plain.keys() == made.keys()
    assert any(not torch.equal(plain[k], made[k]) for k in made)
    steps = train_steps(runs, cut)
    for step in steps:
        if step.number == 10:  # the state of the tenth step is on disk
            break
    steps.close()
    assert main([cut if w == "RUN" else w for w in adversarial]) == 0
    again = load_part(CTAutoencoder, tmp_path / "cut" / "model").state_dict()
    assert all(torch.equal(made[k], again[k]) for k in made)
    assert main(["train", "masks", str(runs / "prepared"), str(tmp_path / "m"), *SHORT, "--adversarial", "1"]) == 1
    assert "is for the decoder" in capsys.readouterr().err


def train_steps(runs, run):
    """The steps of the same adversarial run, as a generator that can be left."""
    from dataclasses import replace
    from pathlib import Path

    from guidegen_data.anatomy_files import anatomy_from
    from guidegen_data.training.decoder import train_decoder
    from guidegen_data.training.recipes import recipe_named
    from guidegen_data.training.stages import Setting

    stage = recipe_named("tiny").stage("decoder")
    stage = replace(stage, fit=replace(stage.fit, num_steps=12, validate_every=0))
    setting = Setting(Path(run), stage, anatomy_from(runs / "prepared" / "anatomy.yaml"), "cpu")
    torch.manual_seed(0)
    return train_decoder(runs / "prepared", setting, runs / "slices", 0.02)
