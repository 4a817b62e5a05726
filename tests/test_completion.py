"""`guidegen complete`: organs that planners left out are drawn, and nothing else changes."""

import json
import shutil
from dataclasses import replace

import little_patients
import numpy as np
import pytest
import torch

from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError, SourceError
from guidegen_data.models.segmenter import Segmenter, partial_losses
from guidegen_data.sources.prepared import case_paths, load_case, load_report, save_case
from guidegen_data.training.completion import anatomy_of
from guidegen_data.training.drawing import draw_missing
from guidegen_data.training.provenance import model_card
from guidegen_data.training.segmenter import PartialCases, organ_ids, organs_named, segmenter_recipe, train_segmenter
from guidegen_data.training.stages import Setting

LIVER, SPLEEN, TUMOUR = 1, 2, 3
PATIENTS = 10
#: Patients whose planner drew no spleen.
LEFT_OUT = (1, 4, 7)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepared cases of patients whose CTs all show a spleen, which some label maps lack."""
    folder = tmp_path_factory.mktemp("partial")
    little_patients.write_nifti(folder / "src", PATIENTS)
    for number in LEFT_OUT:
        _, label = little_patients.patient(number)
        label[label == SPLEEN] = 0
        little_patients.save(label, folder / "src" / f"p{number}_label.nii.gz")
    table = str(folder / "src" / "anatomy.yaml")
    assert main(["prepare", "nifti", str(folder / "src"), str(folder / "prepared"), "--anatomy", table]) == 0
    return folder / "prepared"


@pytest.fixture(scope="module")
def completed(prepared):
    """The same folder completed, by a network that has learned for as long as a test may take."""
    out = prepared.parent / "completed"
    assert main(words(prepared, out)) == 0
    return out


def words(prepared, out) -> list[str]:
    steps = ["--num-steps", "120", "--device", "cpu"]
    return ["complete", str(prepared), str(out), "--classes", "spleen", *steps]


def cases(folder) -> dict:
    paths = [p for split in ("train", "validation") for p in case_paths(folder / split)]
    return {load_case(p).base: (load_case(p), load_report(p)) for p in paths}


def test_the_missing_organ_is_drawn_where_it_is(prepared, completed) -> None:
    before, after = cases(prepared), cases(completed)
    for number in LEFT_OUT:
        was, now = before[f"p{number}"][0], after[f"p{number}"][0]
        drawn, truth = now.label_map == SPLEEN, was.ct_hu > 15
        truth &= was.label_map == 0  # the CT shows body, lesions, liver and spleen, and nothing else so bright
        assert not (was.label_map == SPLEEN).any()
        assert 2 * (drawn & truth).sum() / (drawn.sum() + truth.sum()) > 0.6
        assert np.array_equal(now.label_map[~drawn], was.label_map[~drawn])
        assert was.findings.organs.get("spleen") == "absent"
        assert now.findings.organs.get("spleen") != "absent"
        assert now.findings.lesions == was.findings.lesions
        assert "no spleen" not in after[f"p{number}"][1].lower()


def test_what_was_drawn_by_hand_stays(prepared, completed) -> None:
    before, after = cases(prepared), cases(completed)
    assert set(before) == set(after)
    for name in set(before) - {f"p{n}" for n in LEFT_OUT}:
        assert np.array_equal(after[name][0].label_map, before[name][0].label_map)
        assert after[name][0].findings == before[name][0].findings
        assert after[name][1] == before[name][1]


def test_it_is_told_what_was_drawn_and_how_well(completed) -> None:
    told = json.loads((completed / "completed.json").read_text())["classes"]["spleen"]
    assert told["drawn_in_files"] == len(LEFT_OUT)
    notes = {p.stem: json.loads(p.read_text()) for p in (completed / "cases").glob("*.json")}
    assert {name for name, note in notes.items() if note["completed"]} == {f"p{n}" for n in LEFT_OUT}
    assert notes["p1"]["volumes_ml"]["spleen"] > 0
    assert (completed / "summary.html").exists()


def test_killed_half_way_and_run_again_gives_the_same_cases(prepared, completed, tmp_path) -> None:
    out = tmp_path / "again"
    shutil.copytree(completed, out)
    lines = (out / "completed.jsonl").read_text().splitlines(keepends=True)
    (out / "completed.jsonl").write_text("".join(lines[:5]) + lines[5][:9])
    for line in lines[5:]:
        (out / json.loads(line)["file"]).unlink()
    assert main(words(prepared, out)) == 0
    for name, (case, report) in cases(completed).items():
        again, report_again = cases(out)[name]
        assert np.array_equal(again.label_map, case.label_map)
        assert (again.findings, report_again) == (case.findings, report)
    assert (out / "completed.jsonl").read_text() == "".join(lines)


def test_a_deleted_file_is_made_again_and_counted_once(prepared, completed, tmp_path) -> None:
    out = tmp_path / "again"
    shutil.copytree(completed, out)
    lines = (out / "completed.jsonl").read_text().splitlines(keepends=True)
    gone = next(k for k, line in enumerate(lines) if json.loads(line)["drawn_ml"])
    path = out / json.loads(lines[gone])["file"]
    before = path.read_bytes()
    path.unlink()
    assert main(words(prepared, out)) == 0
    assert path.read_bytes() == before
    assert sorted((out / "completed.jsonl").read_text().splitlines(keepends=True)) == sorted(lines)
    assert (out / "completed.json").read_text() == (completed / "completed.json").read_text()


def test_a_case_that_was_prepared_anew_is_completed_anew(prepared, completed, tmp_path) -> None:
    source, out = tmp_path / "prepared", tmp_path / "again"
    shutil.copytree(prepared, source)
    shutil.copytree(completed, out)
    path = next(p for p in case_paths(source / "train") if load_case(p).base == "p1")
    file = str(path.relative_to(source))
    case = load_case(path)
    save_case(path, replace(case, label_map=np.where(case.label_map == LIVER, 0, case.label_map)), load_report(path))
    before = {p.name: p.read_bytes() for p in (out / "train").glob("*.npz")}
    note = out / "cases" / "p1.json"
    note.write_text("stale")
    assert main(words(source, out)) == 0
    assert not (load_case(out / file).label_map == LIVER).any()
    assert (load_case(out / file).label_map == SPLEEN).any()
    assert json.loads(note.read_text())["completed"] == ["spleen"]
    changed = {p.name for p in (out / "train").glob("*.npz") if before[p.name] != p.read_bytes()}
    assert changed == {path.name}
    told = [json.loads(line)["file"] for line in (out / "completed.jsonl").read_text().splitlines()]
    assert len(told) == len(set(told)) == PATIENTS


def test_a_folder_that_does_not_tell_what_it_was_made_of_stays_as_it_is(prepared, completed, tmp_path) -> None:
    out = tmp_path / "old"
    shutil.copytree(completed, out)
    lines = [json.loads(line) for line in (out / "completed.jsonl").read_text().splitlines()]
    old = "".join(json.dumps({k: line[k] for k in ("file", "drawn_ml")}) + "\n" for line in lines)
    (out / "completed.jsonl").write_text(old)
    assert main(words(prepared, out)) == 0
    assert (out / "completed.jsonl").read_text() == old


def test_completed_cases_train_a_stage_and_the_card_tells_of_it(completed, tmp_path) -> None:
    run = ["train", "masks", str(completed), str(tmp_path / "run"), "--recipe", "tiny", "--num-steps", "1"]
    assert main([*run, "--device", "cpu", "--validate-every", "0"]) == 0
    card = model_card("mine", anatomy_of(completed), tmp_path / "run", tmp_path / "none", "")
    assert "drawn by `guidegen complete` in some of the 10 files, warped copies counted: spleen (3 files, Dice" in card


def test_a_network_draws_as_it_is_where_nothing_is_to_be_trained(prepared, completed, tmp_path, capsys) -> None:
    again = ["complete", str(prepared), str(tmp_path / "again"), "--classes", "spleen", "--num-steps", "0"]
    assert main([*again, "--device", "cpu"]) == 1
    assert "--init COMPLETED" in capsys.readouterr().err
    for workers in ("1", "3"):
        out = tmp_path / workers
        words = [*again[:2], str(out), *again[3:], "--init", str(completed), "--device", "cpu", "--workers", workers]
        assert main(words) == 0
        weights = "diffusion_pytorch_model.safetensors"
        kept = (out / "segmenter" / "model" / weights).read_bytes()
        assert kept == (completed / "segmenter" / "best" / weights).read_bytes()
        one, other = cases(completed), cases(out)
        assert list(one) == list(other)
        assert all(np.array_equal(one[name][0].label_map, other[name][0].label_map) for name in one)
        notes = [(p.name, json.loads(p.read_text())) for p in sorted((out / "cases").glob("*.json"))]
        assert notes == [(p.name, json.loads(p.read_text())) for p in sorted((completed / "cases").glob("*.json"))]


def test_only_organs_of_the_table_that_can_be_missing_are_drawn(prepared, tmp_path, capsys) -> None:
    for name in ("tumour", "liver", "gizzard"):
        assert main(["complete", str(prepared), str(tmp_path / "out"), "--classes", name]) == 1
        assert f"'{name}' cannot be drawn; choose of spleen." in capsys.readouterr().err
    assert organs_named(["spleen", "spleen"], anatomy_of(prepared)) == ["spleen"]


def test_another_completion_or_another_folder_is_refused(prepared, completed, tmp_path, capsys) -> None:
    held = json.loads((completed / "prepared.json").read_text())
    assert held["completed"] == ["spleen"]
    other = tmp_path / "other"
    shutil.copytree(completed, other)
    (other / "prepared.json").write_text(json.dumps(held | {"seed": 9}))
    assert main(words(prepared, other)) == 1
    assert "other cases" in capsys.readouterr().err
    with pytest.raises(SourceError, match="no cases of a data set"):
        anatomy_of(tmp_path)


def test_an_organ_that_too_few_show_is_refused(prepared, tmp_path, capsys) -> None:
    few = tmp_path / "few"
    shutil.copytree(prepared, few)
    for path in case_paths(few / "train")[3:]:
        path.unlink()
    assert main(words(few, tmp_path / "out")) == 1
    assert "show spleen" in capsys.readouterr().err


def test_most_draws_show_a_wanted_class(prepared) -> None:
    rare = next(p for p in case_paths(prepared / "train") if (load_case(p).label_map == TUMOUR).any())
    paths = [rare, *(p for p in case_paths(prepared / "train") if not (load_case(p).label_map == TUMOUR).any())]
    source = PartialCases(paths, [[0]], torch.ones(4))
    shows = [(source.draw(torch.Generator().manual_seed(k))[1] == TUMOUR).any().item() for k in range(60)]
    assert 0.6 < np.mean(shows) < 0.95
    first, again = (source.draw(torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(first, again)


def losses(logits, labels) -> float:
    return float(partial_losses(logits, labels, torch.tensor([SPLEEN]), TUMOUR)["total"])


def test_an_organ_nobody_drew_may_be_anywhere_but_on_a_drawn_one() -> None:
    labels = torch.ones(1, 8, 8, 8, dtype=torch.long) * LIVER
    labels[:, :4] = 0
    here = torch.zeros(1, 4, 8, 8, 8)
    here.scatter_(1, labels[:, None], 9.0)
    drawn = here.clone()
    drawn[:, :, :2] = 0
    drawn[:, SPLEEN, :2] = 9.0
    assert losses(drawn, labels) == pytest.approx(losses(here, labels), abs=1e-3)
    shown = labels.clone()
    shown[:, 7] = SPLEEN  # somebody drew it: elsewhere it is not
    assert losses(drawn, shown) > losses(here, shown) + 0.5


def test_an_unknown_organ_is_held_to_the_size_organs_have() -> None:
    labels = torch.ones(1, 8, 8, 8, dtype=torch.long) * LIVER
    logits = torch.zeros(1, 4, 8, 8, 8)
    logits[:, SPLEEN, :4] = logits[:, LIVER, 4:] = 9.0
    organs = torch.tensor([SPLEEN])
    sizes = [float(partial_losses(logits, labels, organs, TUMOUR, torch.tensor([1, 1, m, 1.0]))["size"])
             for m in (1024.0, 256.0, 128.0, 1.0)]  # fmt: skip
    assert sizes == pytest.approx([0, 0, 1, 5], abs=0.02)
    shown = labels.clone()
    shown[:, 0] = SPLEEN
    assert not partial_losses(logits, shown, organs, TUMOUR, torch.ones(4))["size"]


def test_lesion_voxels_say_nothing_of_the_organ_below() -> None:
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    labels[:, :2] = SPLEEN
    labels[:, 6:] = TUMOUR
    logits = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    other = logits.clone()
    other[:, :, 6:] = torch.randn(1, 4, 2, 8, 8)
    assert losses(other, labels) == pytest.approx(losses(logits, labels), abs=1e-5)


def test_only_the_largest_piece_is_drawn_and_only_where_it_is_large_enough(prepared) -> None:
    anatomy = anatomy_of(prepared)
    assert organ_ids(anatomy) == [SPLEEN]
    label_map = np.zeros((8, 8, 8), np.uint8)
    label_map[:2], label_map[6:] = LIVER, TUMOUR
    chances = np.zeros((4, 8, 8, 8), np.float32)
    chances[SPLEEN, 1:4, :4, :4] = chances[SPLEEN, 4:, 7, 7] = 0.9
    out, drawn = draw_missing(label_map, chances, {(SPLEEN, ""): 10}, anatomy)
    assert drawn == {(SPLEEN, ""): 48}
    assert (out[1:4, :4, :4] == SPLEEN).all()
    assert (out[6:] == TUMOUR).all()
    assert draw_missing(label_map, chances, {(SPLEEN, ""): 49}, anatomy)[1] == {}
    label_map[5, 5, 5] = SPLEEN
    assert np.array_equal(draw_missing(label_map, chances, {(SPLEEN, ""): 1}, anatomy)[0], label_map)


def test_a_network_or_a_field_that_does_not_fit_is_refused(prepared, completed, tmp_path, capsys) -> None:
    other = tmp_path / "other" / "segmenter" / "model"
    Segmenter(num_classes=7, channels=(4, 8, 8), num_res_units=1).save_pretrained(other)
    shutil.copyfile(completed / "anatomy.yaml", tmp_path / "other" / "anatomy.yaml")
    assert main([*words(prepared, tmp_path / "out"), "--init", str(tmp_path / "other")]) == 1
    assert "draws 7 classes, its table has 4" in capsys.readouterr().err
    assert main([*words(prepared, tmp_path / "out2"), "--init", str(completed), "--num-steps", "1"]) == 0
    setting = Setting(tmp_path / "run", segmenter_recipe(1), replace(anatomy_of(prepared), shape=(32, 36, 32)))
    with pytest.raises(ModelError, match="multiple of 8 voxels a side"):
        next(train_segmenter(prepared, setting, [SPLEEN]))


def test_logits_have_the_grid_of_the_ct() -> None:
    logits = Segmenter(num_classes=5, channels=(4, 8, 8), num_res_units=1)(torch.zeros(2, 1, 16, 24, 32))
    assert logits.shape == (2, 5, 16, 24, 32)
    assert logits.dtype == torch.float32
