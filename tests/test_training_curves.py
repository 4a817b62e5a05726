"""Curves of trainings: runs that follow each other are joined, and nothing of the machine is told."""

import json
from pathlib import Path

from benchmarks.training_curves import draw, stage_curve, thinned


def write_run(folder: Path, totals: list[float], validations: dict[int, float]) -> Path:
    folder.mkdir()
    log = [{"step": n, "total": t, "seconds": 36.0} for n, t in enumerate(totals)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    held = [{"step": n, "total": t, "best": True} for n, t in validations.items()]
    (folder / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held))
    (folder / "about.json").write_text(json.dumps({"recipe": "small", "data": "prepared", "started_from": "first"}))
    return folder


def test_a_curve_is_made_of_means_at_the_last_step_of_each_stretch() -> None:
    log = [{"step": n, "total": float(n)} for n in range(10)]
    assert thinned(log, 2) == [{"step": 5, "total": 2.0}, {"step": 10, "total": 7.0}]
    assert len(thinned(log, 100)) == 10


def test_runs_that_follow_each_other_are_one_curve(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [4.0, 2.0], {1: 3.0})
    second = write_run(tmp_path / "second", [1.0, 1.0, 1.0], {2: 0.5})
    curve = stage_curve([first, second], 1)
    assert curve["training"] == [{"step": 2, "total": 3.0}, {"step": 5, "total": 1.0}]
    assert curve["validation"] == [{"step": 2, "total": 3.0}, {"step": 5, "total": 0.5}]
    assert curve["hours"] == 0.05
    assert [run["steps"] for run in curve["runs"]] == [2, 3]
    assert str(tmp_path) not in json.dumps(curve)
    draw({"masks": curve, "slices": curve}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
