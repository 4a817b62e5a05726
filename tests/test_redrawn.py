"""Real label maps that stage 1 draws again: in their places, with its errors; detail learns from them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from little_models import train_little

from guidegen_data.anatomy import TORSO
from guidegen_data.cli.main import main
from guidegen_data.diffusion.categorical import CategoricalScheduler, one_hot
from guidegen_data.errors import ModelError
from guidegen_data.models.mask_sampler import MaskCondition
from guidegen_data.models.sampling import sample_masks
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.prepared import case_paths, load_case
from guidegen_data.training.redrawn import Redrawer

SHORT = ["--recipe", "tiny", "--num-steps", "4", "--validate-every", "2", "--device", "cpu"]
GRID, FINE = (8, 8, 8), (16, 16, 16)


class Seen(torch.nn.Module):
    """Believes what it is shown, and keeps how noisy that was."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.config = SimpleNamespace(shape=GRID)

    def forward(self, x_t, t, abar_t, condition):
        self.times.append(float(t[0]))
        return 9 * one_hot(x_t, 4)


def drawn(model, labels, most_noise=0.5, seed=0, **more) -> torch.Tensor:
    nothing = MaskCondition(torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, *GRID))
    generator = torch.Generator().manual_seed(seed)
    scheduler = CategoricalScheduler(num_classes=4, last_timestep=100)
    scheduler.set_timesteps(10)
    begin = scheduler.noised(labels[None], most_noise, generator)
    return sample_masks(model, scheduler, nothing, [generator], FINE, 10, begin=begin, **more)[0]


def halves() -> torch.Tensor:
    labels = torch.ones(GRID, dtype=torch.int64)
    labels[4:] = 2
    return labels


def test_redrawing_begins_at_a_visited_time_and_goes_down_to_the_last_one() -> None:
    begun = set()
    for seed in range(40):
        model = Seen()
        out = drawn(model, halves(), seed=seed)
        assert (out.shape, out.dtype) == (torch.Size(FINE), torch.uint8)
        assert model.times == sorted(model.times, reverse=True)
        assert model.times[-1] == pytest.approx(0.1)
        begun.add(round(model.times[0], 6))
    assert begun == {0.5, 0.4, 0.3, 0.2, 0.1}


def test_noise_that_no_visited_time_has_little_enough_of_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 10 visited times has 5% noise"):
        drawn(Seen(), halves(), most_noise=0.05)


def test_what_is_redrawn_is_the_label_map_with_noise_of_one_generator() -> None:
    fine = halves().repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    out = drawn(Seen(), halves(), most_noise=0.1)
    assert 0.5 < (out == fine).float().mean() < 1
    assert torch.equal(out, drawn(Seen(), halves(), most_noise=0.1))
    assert not torch.equal(out, drawn(Seen(), halves(), most_noise=0.1, seed=1))
    kept = drawn(Seen(), halves(), most_noise=0.1, volume_ratio=torch.ones(4))
    assert not torch.equal(out, kept), "volumes are kept where their ratios are known"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`prepared`, runs of all stages on it, and the `model` they make."""
    folder = tmp_path_factory.mktemp("redrawn")
    train_little(folder, 6, "0.34", SHORT, {})
    assert main(["export", str(folder / "masks"), str(folder / "slices"), str(folder / "model")]) == 0
    return folder


def test_detail_learns_from_what_a_model_draws(runs, tmp_path, capsys) -> None:
    model, run = runs / "model", tmp_path / "run"
    words = ["train", "detail", str(runs / "prepared"), str(run), "--classes", "liver", *SHORT]
    assert main([*words, "--redrawn-by", str(model)]) == 0
    assert json.loads((run / "about.json").read_text())["redrawn_by"] == "model"
    steps = [json.loads(line)["total"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert main([*words[:3], str(tmp_path / "plain"), *words[4:]]) == 0
    plain = [json.loads(line)["total"] for line in (tmp_path / "plain" / "log.jsonl").read_text().splitlines()]
    assert steps != plain
    capsys.readouterr()
    assert main(words) == 1
    assert "begun with other --redrawn-by" in capsys.readouterr().err
    out = tmp_path / "out"
    assert main(["export", str(model), str(model), str(out), "--detail", str(run)]) == 0
    assert "on label maps redrawn by model" in (out / "README.md").read_text()


def test_a_redrawn_patient_is_the_same_patient(runs) -> None:
    anatomy = GuideGenPipeline.from_pretrained(runs / "model", device="cpu").anatomy
    redraw = Redrawer(str(runs / "model"), anatomy, torch.device("cpu"))
    case = load_case(case_paths(runs / "prepared" / "train")[0])
    first, again = (redraw(case.label_map, case.findings, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert (first.shape, first.dtype) == (torch.Size(anatomy.shape), torch.uint8)
    assert not np.array_equal(first.numpy(), case.label_map)


def test_only_a_model_of_the_same_classes_redraws(runs, tmp_path, capsys) -> None:
    with pytest.raises(ModelError, match="draws other classes than those of the torso table"):
        Redrawer("head-neck", TORSO, torch.device("cpu"))
    short = tmp_path / "short"
    assert main(["export", str(runs / "masks"), str(runs / "slices"), str(short), "--steps-mask", "1"]) == 0
    with pytest.raises(ModelError, match=r"short draws label maps in 1 step\(s\), of which none begins with less"):
        Redrawer(str(short), GuideGenPipeline.from_pretrained(short, device="cpu").anatomy, torch.device("cpu"))
    words = ["train", "masks", str(runs / "prepared"), str(tmp_path / "m"), *SHORT, "--redrawn-by", "torso"]
    assert main(words) == 1
    assert "--redrawn-by is for detail" in capsys.readouterr().err
