"""`guidegen train`: stages on small patients, as users run them. The loop itself is in test_fit."""

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import little_patients
import pytest
import torch
from tiny import tiny_pipeline
from torch import nn

from guidegen_data.anatomy import TORSO
from guidegen_data.anatomy_files import anatomy_from
from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.folder import model_folder
from guidegen_data.models.text import TextEncoder
from guidegen_data.sources import processes
from guidegen_data.sources.prepared import case_paths, load_case
from guidegen_data.training import fit as loop
from guidegen_data.training import stages
from guidegen_data.training.fit import FitConfig, fit
from guidegen_data.training.latents import load_latent_data
from guidegen_data.training.masks import coarsen_labels, load_mask_data, read_volume_ratio
from guidegen_data.training.run_state import load_part

STAGES = ("autoencoder", "masks", "slices")
SHORT = ["--recipe", "tiny", "--num-steps", "12", "--validate-every", "4", "--accumulate", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Four training and two validation patients. Not to be written to but for caches."""
    folder = tmp_path_factory.mktemp("patients")
    little_patients.write_nifti(folder / "src", 6)
    table = str(folder / "src" / "anatomy.yaml")
    arguments = ["prepare", "nifti", str(folder / "src"), str(folder / "out"), "--anatomy", table]
    assert main([*arguments, "--validation-share", "0.34"]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory) -> Path:
    """The runs of all three stages, never interrupted."""
    runs = tmp_path_factory.mktemp("whole")
    for stage in STAGES:
        assert main(command(stage, prepared, runs)) == 0
    return runs


def command(stage: str, prepared: Path, runs: Path, *more: str) -> list[str]:
    extra = ["--autoencoder", str(runs / "autoencoder")] if stage == "slices" else []
    return ["train", stage, str(prepared), str(runs / stage), *extra, *SHORT, *more]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "diffusion_pytorch_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def log_without_times(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize(
    ("stage", "state_written"), [("autoencoder", False), ("autoencoder", True), ("masks", True), ("slices", False)]
)
def test_a_killed_stage_resumes_to_the_bytes_of_one_that_never_stopped(
    stage, state_written, prepared, whole, tmp_path, monkeypatch
) -> None:
    if stage == "slices":
        shutil.copytree(whole / "autoencoder", tmp_path / "autoencoder")
    saving = loop.save_state

    def killed(model, ema, optimizer, progress, config, run) -> None:
        if progress.step != 8 or state_written:
            saving(model, ema, optimizer, progress, config, run)
        if progress.step == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", killed)
    assert main(command(stage, prepared, tmp_path)) == 130
    monkeypatch.setattr(loop, "save_state", saving)
    assert [line["step"] for line in log_without_times(tmp_path / stage)] == list(range(8))
    assert main(command(stage, prepared, tmp_path)) == 0
    for part in ("model", "best"):
        assert same(weights(tmp_path / stage / part), weights(whole / stage / part))
    assert log_without_times(tmp_path / stage) == log_without_times(whole / stage)
    validated = (tmp_path / stage / "validation.jsonl").read_text()
    assert validated == (whole / stage / "validation.jsonl").read_text()
    assert [json.loads(line)["step"] for line in validated.splitlines()] == [3, 7, 11]
    sheets = sorted((tmp_path / stage / "sheets").iterdir())
    assert [p.name for p in sheets] == [f"step-{n:07d}.png" for n in (4, 8, 12)]
    assert all(p.read_bytes() == (whole / stage / "sheets" / p.name).read_bytes() for p in sheets)


def test_a_finished_run_is_left_as_it_is_and_another_configuration_refused(prepared, whole, capsys) -> None:
    before = (whole / "masks" / "state.pt").read_bytes()
    assert main(command("masks", prepared, whole)) == 0
    assert "was complete already" in capsys.readouterr().out
    assert (whole / "masks" / "state.pt").read_bytes() == before
    assert main(command("masks", prepared, whole, "--learning-rate", "0.1")) == 1
    assert "another configuration" in capsys.readouterr().err


def linear() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    return model, copy.deepcopy(model)


ROWS = torch.randn(400, 3, generator=torch.Generator().manual_seed(5))
PLAIN = FitConfig(num_steps=10, batch_size=8, learning_rate=0.05, warmup_steps=2, save_every=10, bf16=False)


def loss_on_rows(size: int):
    def loss_of(model: nn.Module, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        x = ROWS[index * size : (index + 1) * size]
        return {"total": (model(x) - x.sum(dim=1, keepdim=True)).square().mean()}

    return loss_of


def test_two_accumulated_batches_are_one_of_twice_the_size(tmp_path) -> None:
    (double, double_ema), (halves, halves_ema) = linear(), linear()
    config = replace(PLAIN, batch_size=4, accumulate=2)
    one = list(fit(double, double_ema, loss_on_rows(8), PLAIN, tmp_path / "one"))
    two = list(fit(halves, halves_ema, loss_on_rows(4), config, tmp_path / "two"))
    assert len(one) == len(two) == 10
    torch.testing.assert_close(
        torch.tensor([s.gradient_norm for s in one]), torch.tensor([s.gradient_norm for s in two])
    )
    torch.testing.assert_close(halves.weight, double.weight)
    assert one[3].losses["total"] == pytest.approx(two[3].losses["total"], rel=1e-5)


def test_training_stops_early_and_keeps_the_best_validated_weights(prepared, tmp_path, monkeypatch, capsys) -> None:
    totals, seen = iter([3.0, 1.0, 2.0, 4.0, 0.0]), []

    def scripted(*_):
        def validate(ema: nn.Module) -> dict[str, float]:
            seen.append(copy.deepcopy(ema.state_dict()))
            return {"total": next(totals)}

        return validate

    monkeypatch.setattr(stages, "_validation", scripted)
    monkeypatch.setattr(stages, "autoencoder_sheet", lambda *_: None)
    arguments = ["--num-steps", "40", "--validate-every", "2", "--patience", "2"]
    assert main(command("autoencoder", prepared, tmp_path, *arguments)) == 0
    assert "stopped early" in capsys.readouterr().out
    assert len(log_without_times(tmp_path / "autoencoder")) == 8
    assert same(weights(tmp_path / "autoencoder" / "best"), seen[1])
    assert same(weights(tmp_path / "autoencoder" / "model"), seen[3])
    assert not same(seen[1], seen[3])
    assert main(command("autoencoder", prepared, tmp_path, *arguments)) == 0
    assert "was complete already" in capsys.readouterr().out


def test_fine_tuning_starts_from_the_weights_of_a_model(prepared, tmp_path, capsys) -> None:
    still = ["--init", "torso", "--num-steps", "1", "--learning-rate", "1e-12"]
    assert main(command("autoencoder", prepared, tmp_path, *still)) == 0
    assert "100.0% of the weights taken from torso" in capsys.readouterr().err
    started, given = (
        weights(tmp_path / "autoencoder" / "model"),
        weights(model_folder("torso") / "autoencoder"),
    )
    # The guide belongs to the label table of the model it was trained for.
    given = {name: value for name, value in given.items() if not name.startswith("guide.")}
    assert started.keys() == given.keys()
    assert len(given) > 20
    for name, value in given.items():
        torch.testing.assert_close(started[name], value.float(), atol=1e-6, rtol=1e-5)
    # Stage 2 goes on in the latents that it has learned in; one that starts anew measures its own.
    assert main(command("slices", prepared, tmp_path, *still)) == 0
    kept = weights(tmp_path / "slices" / "autoencoder")
    for name in ("latent_mean", "latent_std"):
        torch.testing.assert_close(kept[name], given[name].float(), atol=1e-6, rtol=1e-5)


def test_fine_tuning_goes_on_from_a_run_of_the_same_stage(prepared, whole, tmp_path, capsys) -> None:
    still = ["--init", str(whole / "masks"), "--num-steps", "1", "--learning-rate", "1e-12"]
    assert main(command("masks", prepared, tmp_path, *still)) == 0
    assert "100.0% of the weights taken from" in capsys.readouterr().err
    best, started = weights(whole / "masks" / "best"), weights(tmp_path / "masks" / "model")
    assert best.keys() == started.keys()
    for name, value in best.items():
        torch.testing.assert_close(started[name], value, atol=1e-6, rtol=1e-5)
    assert main(command("autoencoder", prepared, tmp_path, *still)) == 1
    assert "a run that trained a MaskSampler, not a CTAutoencoder" in capsys.readouterr().err


def test_an_odd_batch_does_not_choose_the_weights() -> None:
    """The loss of one batch in eight is a hundred times that of the others, and it alone gets a little worse."""

    def loss_of(model: nn.Module, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"total": torch.tensor(100 + 20 * model.steps if index == 5 else 1 - 0.5 * model.steps)}

    validate = stages._validation(loss_of, FitConfig(num_steps=1, bf16=False), torch.device("cpu"))
    early, late = nn.Identity(), nn.Identity()
    early.steps, late.steps = 0.0, 1.0
    assert validate(early)["total"] == pytest.approx(100 ** (1 / 8))
    assert validate(late)["total"] < 0.6 * validate(early)["total"]


def test_a_sampler_for_another_table_keeps_all_but_its_own_ends(tmp_path, capsys) -> None:
    from guidegen_data.models.mask_sampler import MaskSampler
    from guidegen_data.training.initial import Initial, initial_network, start_from

    sizes = initial_network("torso", Initial.MASKS, {"channels": (8, 8, 8)})
    given = weights(model_folder("torso") / "mask_sampler")
    network = MaskSampler(num_classes=4, fields=("a", "b"), **sizes)
    before = copy.deepcopy(network.state_dict())
    start_from(network, "torso", Initial.MASKS)
    fits = [k for k, v in given.items() if before[k].shape == v.shape]
    assert 0.9 * len(given) < len(fits) < len(given)
    for name, value in network.state_dict().items():
        expected = given[name].float() if name in fits else before[name]
        assert torch.equal(value, expected), name
    assert "taken from torso" in capsys.readouterr().err


def test_weights_that_do_not_fit_and_grids_that_do_not_divide_are_refused(prepared, tmp_path, capsys) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model", safe_serialization=True)
    config = tmp_path / "model" / "autoencoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": [24, 40]}))
    assert main(command("autoencoder", prepared, tmp_path, "--init", str(tmp_path / "model"))) == 1
    assert "start without --init" in capsys.readouterr().err
    assert main(command("masks", prepared, tmp_path, "--init", "torso")) == 1
    assert "(64, 64, 64) must be a whole fraction of the two-organs table's (32, 32, 32)" in capsys.readouterr().err
    assert main(command("masks", prepared, tmp_path, "--init", "brain")) == 1
    assert "no model 'brain'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "advice"),
    [("6", "--batch-size 3 --accumulate 4"), ("9", "--batch-size 3 --accumulate 6"), ("1", "take a smaller recipe")],
)
def test_out_of_memory_says_what_is_the_same_step_in_less(
    size, advice, prepared, tmp_path, monkeypatch, capsys
) -> None:
    def loss(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(stages, "mask_loss", loss)
    assert main(command("masks", prepared, tmp_path, "--batch-size", size)) == 1
    told = capsys.readouterr().err
    assert "a step needs more memory than cpu has" in told
    assert advice in told


def test_every_recipe_is_printed_with_what_it_costs(prepared, tmp_path, capsys) -> None:
    assert main(["train", "slices", str(prepared), str(tmp_path / "run"), "--recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["tiny", "small", "base", "paper"]
    parameters = [float(line.split("slices: ")[1].split(" M parameters")[0]) for line in lines[1::2]]
    assert parameters == sorted(parameters)
    assert all("GiB in training" in line and "operations an example" in line for line in lines[1::2])
    assert not (tmp_path / "run").exists()


def test_costs_count_what_the_network_has(prepared) -> None:
    from guidegen_data.models.mask_sampler import MaskSampler
    from guidegen_data.reports.fields import field_names
    from guidegen_data.training.costs import stage_cost
    from guidegen_data.training.recipes import recipe_named

    recipe = recipe_named("tiny").masks
    model = MaskSampler(num_classes=TORSO.num_classes, fields=field_names(TORSO), **recipe.network)
    cost = stage_cost("masks", recipe, TORSO)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    twice = stage_cost("masks", replace(recipe, fit=replace(recipe.fit, batch_size=4)), TORSO)
    assert twice.operations == cost.operations > 1e8
    own = 20 * cost.parameters / 2**30
    assert twice.memory_gib - own == pytest.approx(2 * (cost.memory_gib - own))
    wide = stage_cost("masks", recipe, TORSO, native_bf16=False)
    assert wide.memory_gib - own == pytest.approx(2 * (cost.memory_gib - own))


def test_latents_are_means_encoded_once(prepared, whole, tmp_path, monkeypatch) -> None:
    autoencoder = load_part(CTAutoencoder, whole / "autoencoder" / "model")
    folder, cache = prepared / "train", tmp_path / "latents.pt"
    data = load_latent_data(folder, TORSO, autoencoder, TextEncoder(), cache)
    assert len(data.latents) == len(case_paths(folder)) == 4
    ct = torch.from_numpy(load_case(case_paths(folder)[1]).ct_hu)
    with torch.no_grad():
        mean = autoencoder._posterior(ct.permute(2, 0, 1).unsqueeze(1)).mean
    expected = (mean - autoencoder.latent_mean) / autoencoder.latent_std
    torch.testing.assert_close(data.latents[1].float(), expected, atol=4e-3, rtol=2e-3)
    flat = data.latents.float().transpose(0, 2).flatten(1)
    assert float(flat.mean(dim=1).abs().max()) < 0.2  # the statistics are of every fourth slice

    def refuse(*_, **__):
        raise AssertionError("encoded again")

    monkeypatch.setattr("guidegen_data.training.latents.encode_volume", refuse)
    fresh = load_part(CTAutoencoder, whole / "autoencoder" / "model")
    again = load_latent_data(folder, TORSO, fresh, TextEncoder(), cache)
    assert torch.equal(again.latents, data.latents)
    assert torch.equal(fresh.latent_std, autoencoder.latent_std)
    held = torch.load(cache, weights_only=True)
    torch.save({**held, "inhomogeneity": held["inhomogeneity"][..., :2]}, cache)  # of a version before
    with pytest.raises(ModelError, match=f"another run folder, by --init {tmp_path}"):
        load_latent_data(folder, TORSO, fresh, TextEncoder(), cache)


@pytest.mark.parametrize("stage", ["masks", "slices"])
def test_cases_read_by_two_processes_are_those_read_by_one(prepared, whole, tmp_path, monkeypatch, stage) -> None:
    anatomy = anatomy_from(prepared / "anatomy.yaml")
    monkeypatch.setattr(processes, "_CASES_A_PROCESS", 1)
    held = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        shutil.copytree(prepared / "train", folder, ignore=shutil.ignore_patterns("*.pt"))
        if stage == "masks":
            data = load_mask_data(folder, anatomy, TextEncoder(), (16, 16, 16), workers=workers)
        else:
            autoencoder = load_part(CTAutoencoder, whole / "autoencoder" / "model")
            data = load_latent_data(folder, anatomy, autoencoder, TextEncoder(), folder / "kept.pt", workers=workers)
        held.append({f.name: getattr(data, f.name) for f in fields(data)})
    assert len(held[0]["labels"]) >= 2
    for name, value in held[0].items():
        other = held[1][name]
        same_numbers = value == other if isinstance(value, int) else torch.equal(value.nan_to_num(), other.nan_to_num())
        assert same_numbers, name


def test_slices_are_trained_in_the_latents_of_the_autoencoder_they_carry(whole) -> None:
    carried = load_part(CTAutoencoder, whole / "slices" / "autoencoder")
    best = weights(whole / "autoencoder" / "best")
    names = [k for k in best if not k.startswith("latent_")]
    assert len(names) > 20
    assert all(torch.equal(carried.state_dict()[k], best[k]) for k in names)
    held = torch.load(whole / "slices" / "latents.pt", weights_only=True)
    assert torch.equal(carried.latent_mean, held["mean"])


def test_tensorboard_is_an_extra_that_is_named_when_it_is_missing(prepared, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(command("masks", prepared, tmp_path, "--tensorboard")) == 1
    assert 'pip install "guidegen-data[tensorboard]"' in capsys.readouterr().err


def test_two_processes_train_as_one_that_accumulates_two_batches(prepared, whole, tmp_path) -> None:
    stage = "masks"
    arguments = command(stage, prepared, tmp_path)
    arguments[arguments.index("--accumulate") + 1] = "1"
    # What `accelerate launch` starts on several GPUs; on CPUs it starts one process, so torchrun is asked directly.
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    done = subprocess.run(
        [sys.executable, *launch, "--rdzv_endpoint", "localhost:0", "-m", "guidegen_data.cli.main", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    together, alone = weights(tmp_path / stage / "model"), weights(whole / stage / "model")
    assert together.keys() == alone.keys()
    one, two = (torch.cat([w[name].flatten().double() for name in alone]) for w in (alone, together))
    # Sums are rounded in another order, and Adam's step is of full length even where a gradient is next to nothing.
    assert float((one - two).norm() / one.norm()) < 2e-3
    steps = [log_without_times(run / stage) for run in (tmp_path, whole)]
    norms = [[line["gradient_norm"] for line in lines] for lines in steps]
    assert len(norms[0]) == 12
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)


def test_a_stage_without_its_data_or_its_autoencoder_is_refused(prepared, whole, tmp_path, capsys) -> None:
    assert main(["train", "slices", str(prepared), str(tmp_path / "run"), "--recipe", "tiny"]) == 1
    assert "needs --autoencoder RUN" in capsys.readouterr().err
    assert main(["train", "masks", str(tmp_path), str(tmp_path / "run"), "--recipe", "tiny"]) == 1
    assert "run `guidegen prepare` first" in capsys.readouterr().err
    with pytest.raises(ModelError, match="holds no trained CTAutoencoder"):
        load_part(CTAutoencoder, tmp_path / "nothing")


def test_the_run_tells_how_much_volume_each_class_has_at_full_resolution(prepared, whole) -> None:
    anatomy = anatomy_from(prepared / "anatomy.yaml")
    fine, coarse = torch.zeros(2, anatomy.num_classes)
    for path in case_paths(prepared / "train"):
        labels = load_case(path).label_map
        factor = labels.shape[0] // 32
        fine += torch.bincount(torch.from_numpy(labels).flatten().long(), minlength=anatomy.num_classes) / factor**3
        small = torch.from_numpy(coarsen_labels(labels, anatomy, factor))
        coarse += torch.bincount(small.flatten().long(), minlength=anatomy.num_classes)
    ratio = read_volume_ratio(whole / "masks")
    assert ratio is not None
    shown = (fine > 0) & (coarse > 0)
    assert shown.sum() > 2
    torch.testing.assert_close(torch.tensor(ratio)[shown], (fine / coarse)[shown], atol=1e-3, rtol=0)
    assert read_volume_ratio(whole / "autoencoder") is None
