"""What the donor generator learns after its history: from whom, from what, and that no model is written over."""

import json
from pathlib import Path

import pytest

from benchmarks import donor_training
from benchmarks.downstream_donors import ORGAN_FILES


@pytest.fixture
def told(tmp_path, monkeypatch) -> dict[str, list]:
    """Every command as it was given, the files that donors were linked with, and how they were completed; nothing is
    trained, and models out of the history are empty folders."""
    held: dict[str, list] = {"commands": [], "linked": [], "completed": []}

    class Commands:
        def guidegen(self, name: str, *words: object) -> None:
            held["commands"].append(list(words))
            if words[0] == "export":
                Path(str(words[3])).mkdir()
                (Path(str(words[3])) / "model_index.json").write_text(json.dumps({"delay_ct": 2}))

    def complete(work: Path, prepare: tuple = (), complete: tuple = ()) -> Path:
        held["completed"].append((work.name, list(prepare), list(complete)))
        return work / "completed"

    def link(openkbp: Path, out: Path, files: tuple = ("*",)) -> None:
        held["linked"].append((openkbp.name, out.parent.name, tuple(files)))

    monkeypatch.setattr(donor_training, "Commands", Commands)
    monkeypatch.setattr(donor_training, "clear_all", lambda openkbp, out: out)
    monkeypatch.setattr(donor_training, "link_donors", link)
    monkeypatch.setattr(donor_training, "complete_donors", complete)
    for name in ("first_donor_model", "second_donor_model"):
        monkeypatch.setattr(donor_training, name, lambda out, name=name: (out / name).mkdir(parents=True))
    return held


def run(tmp_path: Path, *more: str) -> Path:
    work = tmp_path / "work"
    donor_training.main([str(tmp_path / "openkbp"), str(tmp_path / "model"), "--work", str(work), *more])
    return work


def test_thin_parts_of_warped_donors_and_detail_of_redrawn_ones(told, tmp_path) -> None:
    work = run(tmp_path)
    assert (work / "before" / "second_donor_model").exists()
    assert told["linked"] == [("imaged", "targets", ("*",)), ("imaged", "warped", ORGAN_FILES),
                              ("imaged", "organs", ORGAN_FILES)]  # fmt: skip
    masks, detail, export = told["commands"]
    assert masks == ["train", "masks", work / "warped" / "completed", work / "masks", "--init", work / "before",
                     "--num-steps", 2000, "--learning-rate", 6e-4, "--validate-every", 250,
                     "--thin-weight", 4]  # fmt: skip
    assert detail == ["train", "detail", work / "organs" / "completed", work / "detail", "--init", work / "before",
                      "--redrawn-by", work / "before", "--num-steps", 700, "--learning-rate", 1e-3,
                      "--validate-every", 100]  # fmt: skip
    assert export == ["export", work / "masks", work / "before", tmp_path / "model", "--detail", work / "detail"]


def test_one_network_completes_all_and_copies_are_warped_before(told, tmp_path) -> None:
    network = run(tmp_path) / "targets" / "completed"
    drawn = ["--num-steps", 0, "--init", network]
    assert told["completed"] == [("targets", [], []), ("warped", ["--augment", 3], drawn), ("organs", [], drawn)]
    assert json.loads((tmp_path / "model" / "model_index.json").read_text()) == {"delay_ct": 2}


def test_the_model_before_learned_from_cleared_donors_and_its_bones_are_held(told, tmp_path) -> None:
    work = run(tmp_path, "--second", "--steps-masks", "8")
    assert (work / "history" / "first_donor_model").exists()
    masks, detail, export = told["commands"]
    assert masks == ["train", "masks", work / "organs" / "completed", work / "masks", "--init", work / "history",
                     "--num-steps", 8, "--learning-rate", 5e-4, "--validate-every", 2]  # fmt: skip
    assert detail == ["train", "detail", work / "targets" / "cases", work / "detail", "--init", "torso",
                      "--classes", "soft tissue", "bone", "--num-steps", 1200, "--validate-every", 200]  # fmt: skip
    assert export == ["export", work / "masks", work / "history", tmp_path / "model", "--detail", work / "detail"]
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index == {"delay_ct": 2, "hold_contrast": True}


def test_a_model_that_is_there_is_not_written_over(tmp_path) -> None:
    with pytest.raises(SystemExit, match="is there already"):
        donor_training.main(["openkbp", str(tmp_path), "--work", str(tmp_path / "work")])
