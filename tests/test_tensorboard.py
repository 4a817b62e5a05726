"""TensorBoard logs hold the same numbers as the run's own."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from guidegen_data.cli.train import _Board
from guidegen_data.training.fit import Step


def test_losses_and_validations_are_written_step_by_step(tmp_path: Path) -> None:
    steps = [Step(n, {"total": 2.0 - n, "noisy": 3.0}, 0.5, 0.1, {"total": 1.5} if n == 2 else None) for n in range(3)]
    with _Board(tmp_path, wanted=True) as board:
        for step in steps:
            board.write(step)
    held = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(held.Tags()["scalars"]) == {
        "training/total", "training/noisy", "training/gradient_norm", "validation/total"
    }  # fmt: skip
    assert [(e.step, e.value) for e in held.Scalars("training/total")] == [(0, 2.0), (1, 1.0), (2, 0.0)]
    assert [(e.step, e.value) for e in held.Scalars("validation/total")] == [(2, 1.5)]
    assert held.Scalars("training/gradient_norm")[1].value == pytest.approx(0.5)


def test_nothing_is_written_where_it_is_not_asked_for(tmp_path: Path) -> None:
    with _Board(tmp_path, wanted=False) as board:
        board.write(Step(0, {"total": 1.0}, 0.5, 0.1))
    assert not list(tmp_path.iterdir())
