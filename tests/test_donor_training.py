"""What the donor generator learns after its history: from whom, from what, and that no model is written over."""

import json
from pathlib import Path

import pytest

from benchmarks import donor_training
from benchmarks.downstream_donors import ORGAN_FILES


@pytest.fixture
def told(tmp_path, monkeypatch) -> dict[str, list]:
    """Every command as it was given, and the files that donors were linked with; nothing is trained."""
    held: dict[str, list] = {"commands": [], "linked": [], "completed": []}

    class Commands:
        def guidegen(self, name: str, *words: object) -> None:
            held["commands"].append(list(words))
            if words[0] == "export":
                Path(str(words[3])).mkdir()
                (Path(str(words[3])) / "model_index.json").write_text(json.dumps({"delay_ct": 2}))

    def complete(work: Path, prepare: tuple = (), complete: tuple = ()) -> Path:
        held["completed"].append((work.name, list(complete)))
        return work / "completed"

    def link(openkbp: Path, out: Path, files: tuple = ("*",)) -> None:
        held["linked"].append((openkbp.name, out.parent.name, tuple(files)))

    monkeypatch.setattr(donor_training, "Commands", Commands)
    monkeypatch.setattr(donor_training, "clear_all", lambda openkbp, out: out)
    monkeypatch.setattr(donor_training, "link_donors", link)
    monkeypatch.setattr(donor_training, "complete_donors", complete)
    monkeypatch.setattr(donor_training, "first_donor_model", lambda out: out.mkdir(parents=True))
    work = tmp_path / "work"
    donor_training.train_further(tmp_path / "openkbp", work, tmp_path / "model", ["--num-steps", 7], ["--num-steps", 9])
    return held


def test_stage_1_learns_from_cleared_donors_without_targets_and_detail_from_all_they_show(told, tmp_path) -> None:
    work = tmp_path / "work"
    assert told["linked"] == [("imaged", "targets", ("*",)), ("imaged", "organs", ORGAN_FILES)]
    masks, detail, export = told["commands"]
    assert masks == ["train", "masks", work / "organs" / "completed", work / "masks", "--init", work / "history",
                     "--num-steps", 7]  # fmt: skip
    assert detail[:3] == ["train", "detail", work / "targets" / "cases"]
    assert detail[4:] == ["--init", "torso", "--classes", "soft tissue", "bone", "--num-steps", 9]
    assert export == ["export", work / "masks", work / "history", tmp_path / "model", "--detail", work / "detail"]


def test_one_network_completes_both_and_bones_are_held(told, tmp_path) -> None:
    network = tmp_path / "work" / "targets" / "completed"
    assert told["completed"] == [("targets", []), ("organs", ["--num-steps", 0, "--init", network])]
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index == {"delay_ct": 2, "hold_contrast": True}


def test_a_model_that_is_there_is_not_written_over(tmp_path, monkeypatch) -> None:
    words = ["donor_training", "openkbp", str(tmp_path), "--work", str(tmp_path / "work")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match="is there already"):
        donor_training.main()
