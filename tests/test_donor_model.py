"""The donor setting's generator comes out of the repository's history: stage 1 of one commit, the rest of another."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import donor_model


def commit(root: Path, stage_1: str, image_stage: str, settings: dict) -> str:
    folder = root / donor_model._FOLDER
    for part, text in (("mask_sampler", stage_1), ("slice_generator", image_stage)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "weights").write_text(text)
    (folder / "model_index.json").write_text(json.dumps(settings))
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["add", "-A"], ["commit", "-qm", stage_1]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_stage_1_is_that_of_the_donors_and_the_image_stage_the_better_one(tmp_path, monkeypatch) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "repo")], check=True)
    first = commit(tmp_path / "repo", "donors", "early", {"volume_ratio": [1.5], "delay_ct": None})
    second = commit(tmp_path / "repo", "all", "late", {"volume_ratio": [2.5], "delay_ct": 2})
    for name, value in (("_ROOT", tmp_path / "repo"), ("STAGE_1", first), ("IMAGE_STAGE", second)):
        monkeypatch.setattr(donor_model, name, value)
    donor_model.first_donor_model(tmp_path / "out")
    assert (tmp_path / "out" / "mask_sampler" / "weights").read_text() == "donors"
    assert (tmp_path / "out" / "slice_generator" / "weights").read_text() == "late"
    assert json.loads((tmp_path / "out" / "model_index.json").read_text()) == {"volume_ratio": [1.5], "delay_ct": 2}
    with pytest.raises(SystemExit, match="use a full clone"):
        donor_model.unpack("0" * 40, tmp_path / "none")
    monkeypatch.setattr(donor_model, "STAGE_1", "0" * 40)
    with pytest.raises(SystemExit):
        donor_model.first_donor_model(tmp_path / "half")
    assert not (tmp_path / "half").exists()
    for name, held in (("TRAINED_ON", second), ("SECOND", first)):
        monkeypatch.setattr(donor_model, name, held)
    for words, stage_1 in (([], "all"), (["--second"], "donors")):
        monkeypatch.setattr("sys.argv", ["donor_model", str(tmp_path / stage_1), *words])
        donor_model.main()
        assert (tmp_path / stage_1 / "mask_sampler" / "weights").read_text() == stage_1
    assert json.loads((tmp_path / "all" / "model_index.json").read_text())["volume_ratio"] == [2.5]
    monkeypatch.setattr(donor_model, "TRAINED_ON", "0" * 40)
    with pytest.raises(SystemExit, match="use a full clone"):
        donor_model.donor_model(tmp_path / "half")
    assert not (tmp_path / "half").exists()
