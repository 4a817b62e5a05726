"""What a run notes of itself: it is resumed with that alone, and what is left out of training is named."""

import json
import shutil
from pathlib import Path

import little_patients
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from guidegen_data.anatomy import TORSO
from guidegen_data.anatomy_files import read_anatomy
from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError, SourceError
from guidegen_data.models.text import TextEncoder
from guidegen_data.sources.prepared import case_paths, load_case
from guidegen_data.training.masks import load_mask_data
from guidegen_data.training.provenance import about_run, check_about, model_card, run_facts, with_stage
from guidegen_data.training.stages import read_training_cts

NOTES = ("about.json", "anatomy.yaml", "volume_ratio.json")
SHORT = ["--recipe", "tiny", "--num-steps", "2", "--validate-every", "0", "--device", "cpu", "--workers", "1"]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """`prepared` of four patients, `other/prepared` of four others of the same names, runs/autoencoder and runs/slices.
    Not to be written to but for caches."""
    folder = tmp_path_factory.mktemp("work")
    for src, out, first in (("src", "prepared", 0), ("other/src", "other/prepared", 4)):
        little_patients.write_nifti(folder / src, 4)
        for k in range(4):
            ct, label = little_patients.patient(first + k)
            little_patients.save(ct, folder / src / f"p{k}_ct.nii.gz")
            little_patients.save(label, folder / src / f"p{k}_label.nii.gz")
        table = ["--anatomy", str(folder / src / "anatomy.yaml"), "--validation-share", "0"]
        assert main(["prepare", "nifti", str(folder / src), str(folder / out), *table]) == 0
    for stage in ("autoencoder", "masks", "slices"):
        assert main(train(stage, folder / "prepared", folder / "runs" / stage, folder)) == 0
    return folder


def train(stage: str, data: Path, run: Path, work: Path, *more: str) -> list[str]:
    beside = {"slices": "autoencoder", "decoder": "slices"}
    extra = ["--autoencoder", str(work / "runs" / beside[stage])] if stage in beside else []
    extra += ["--classes", "liver"] if stage == "detail" else []
    return ["train", stage, str(data), str(run), *extra, *SHORT, *more]


def masks_run(work: Path, tmp_path: Path) -> Path:
    run = Path(shutil.copytree(work / "runs" / "masks", tmp_path / "masks"))
    (run / "volume_ratio.json").write_text("[2.0, 2.0, 2.0, 2.0]")  # one that is written anew is another
    return run


def held(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in (*NOTES, "state.pt", "log.jsonl")]


def test_a_run_refuses_other_data_of_the_same_name_and_keeps_what_it_noted(work, tmp_path, capsys) -> None:
    run = masks_run(work, tmp_path)
    before = held(run)
    own, other = (json.loads((work / name / "prepared.json").read_text()) for name in ("prepared", "other/prepared"))
    assert own == other
    assert main(train("masks", work / "other" / "prepared", run, work)) == 1
    assert f"{run} was begun with other data; give the same as then, or another" in capsys.readouterr().err
    assert held(run) == before


def test_data_that_was_moved_is_the_same_data(work, tmp_path, capsys, monkeypatch) -> None:
    run = masks_run(work, tmp_path)
    before = held(run)
    shutil.copytree(work / "prepared", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert main(train("masks", Path("elsewhere"), run, work)) == 0
    assert "was complete already" in capsys.readouterr().out
    assert held(run) == before


def test_another_label_table_is_refused_and_the_own_one_kept(work, tmp_path, capsys) -> None:
    run = masks_run(work, tmp_path)
    before = held(run)
    table = yaml.safe_load((run / "anatomy.yaml").read_text())
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(table | {"size_ml": {"liver": [1.0, 2.0]}}))
    words = train("masks", work / "prepared", run, work)
    assert main([*words, "--anatomy", str(tmp_path / "other.yaml")]) == 1
    assert f"another label table; go on with --anatomy {run / 'anatomy.yaml'}" in capsys.readouterr().err
    assert held(run) == before
    assert main([*words, "--anatomy", str(run / "anatomy.yaml")]) == 0


def test_a_run_that_has_no_state_yet_notes_what_it_is_begun_with(work, tmp_path) -> None:
    run = masks_run(work, tmp_path)
    (run / "state.pt").unlink()
    before = [(run / name).read_bytes() for name in NOTES]
    assert main(train("masks", work / "other" / "prepared", run, work)) == 0
    after = [(run / name).read_bytes() for name in NOTES]
    assert all(a != b for a, b in zip(before, after, strict=True))


BEGUN = {"recipe": "tiny", "started_from": None, "data": "prepared", "patients": {"train": 4}, "left_out": []}
BEGUN |= {"started_from_sha256": "a", "adversarial": 0.01}
BEGUN |= {"cases_sha256": "a", "autoencoder": {"recipe": "tiny", "steps": 4, "cases_sha256": "a", "data": "prepared"}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": "moved"}, ""),
        ({"autoencoder": BEGUN["autoencoder"] | {"steps": 8, "best_step": 3, "data": "moved"}}, ""),
        ({"cases_sha256": "b"}, "data"),
        ({"cases_sha256": "b", "patients": {"train": 3}, "left_out": ["p1"]}, "--leave-out"),
        ({"recipe": "small", "patients": {"train": 3}}, "data and --recipe"),
        ({"started_from": "torso"}, "--init"),
        ({"autoencoder": BEGUN["autoencoder"] | {"recipe": "small"}}, "--autoencoder"),
        ({"tissue": {"recipe": "tiny"}}, "--tissue"),
        ({"distilled_from_steps": 6}, "--distil"),
        ({"started_from_sha256": "b"}, "--init"),
        ({"adversarial": 0.02}, "--adversarial"),
        ({"adversarial": 0.0}, "--adversarial"),
        ({"thin_weight": 4.0}, "--thin-weight"),
        ({"redrawn_by": "torso"}, "--redrawn-by"),
        ({"redrawn_by_sha256": "b"}, "--redrawn-by"),
    ],
)
def test_a_run_is_resumed_with_what_it_was_begun_with(tmp_path, change, told) -> None:
    (tmp_path / "about.json").write_text(json.dumps(BEGUN))
    check_about(tmp_path, BEGUN | change)  # nothing was trained yet
    (tmp_path / "state.pt").touch()
    if told:
        with pytest.raises(ModelError, match=f"was begun with other {told};"):
            check_about(tmp_path, BEGUN | change)
    else:
        check_about(tmp_path, BEGUN | change)


def test_a_run_that_did_not_note_its_cases_knows_its_data_by_name(tmp_path) -> None:
    earlier = {k: v for k, v in BEGUN.items() if k not in ("cases_sha256", "left_out")}
    (tmp_path / "about.json").write_text(json.dumps(earlier))
    (tmp_path / "state.pt").touch()
    check_about(tmp_path, BEGUN | {"left_out": ["p1"]})
    with pytest.raises(ModelError, match="was begun with other data;"):
        check_about(tmp_path, BEGUN | {"data": "another"})
    (tmp_path / "about.json").unlink()
    check_about(tmp_path, BEGUN)


def test_a_run_of_before_is_resumed_whatever_it_did_not_note(tmp_path) -> None:
    earlier = {k: v for k, v in BEGUN.items() if k not in ("started_from_sha256", "adversarial")}
    (tmp_path / "about.json").write_text(json.dumps(earlier | {"tissue": {"recipe": "tiny"}}))
    (tmp_path / "state.pt").touch()
    check_about(tmp_path, BEGUN)  # and tissues that it noted and was not told of
    with pytest.raises(ModelError, match="was begun with other --tissue;"):
        check_about(tmp_path, BEGUN | {"tissue": {"recipe": "small"}})


def test_another_model_in_the_folder_that_a_run_started_from_is_not_taken_for_it(work, tmp_path, capsys) -> None:
    initial, run = tmp_path / "initial", tmp_path / "run"
    shutil.copytree(work / "runs" / "masks", initial)
    words = train("masks", work / "prepared", run, work, "--init", str(initial))
    assert main(words) == 0
    shutil.copytree(initial, tmp_path / "elsewhere" / "initial")
    moved = [*words[:-1], str(tmp_path / "elsewhere" / "initial")]
    assert main(moved) == 0
    path = initial / "model" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1}, path)
    assert main(words) == 1
    assert f"{run} was begun with other --init; give the same" in capsys.readouterr().err


def test_a_decoder_is_gone_on_with_beside_the_same_discriminator_which_its_row_tells(work, tmp_path, capsys) -> None:
    run = tmp_path / "decoder"
    assert main(train("decoder", work / "prepared", run, work, "--adversarial", "0.01")) == 0
    card = model_card("mine", TORSO, work / "runs" / "masks", work / "runs" / "slices", "", run)
    assert "| decoder | tiny, beside a discriminator of weight 0.01 | 2 of" in card
    for other in (["--adversarial", "0.02"], []):
        assert main(train("decoder", work / "prepared", run, work, *other)) == 1
        assert f"{run} was begun with other --adversarial; give the same" in capsys.readouterr().err
    assert main(train("decoder", work / "prepared", run, work, "--adversarial", "0.01")) == 0


@pytest.mark.parametrize("stage", ["autoencoder", "masks", "detail", "tissue"])
def test_a_stage_that_needs_no_autoencoder_takes_none(work, tmp_path, capsys, stage) -> None:
    words = train(stage, work / "prepared", tmp_path / "run", work, "--autoencoder", str(work / "runs" / "autoencoder"))
    assert main(words) == 1
    assert f"--autoencoder is for slices and the decoder, not for {stage}; leave it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tissues_that_slices_are_not_told_of_are_not_noted(work, tmp_path) -> None:
    initial = Path(shutil.copytree(work / "runs" / "slices", tmp_path / "initial"))
    noted = json.loads((initial / "about.json").read_text())
    (initial / "about.json").write_text(json.dumps(noted | {"tissue": {"recipe": "tiny"}}))
    own = read_anatomy(initial / "anatomy.yaml")
    about = about_run("slices", "tiny", own, work / "prepared", str(initial))
    assert (about["tissue"], about["autoencoder"]) == ({"recipe": "tiny"}, noted["autoencoder"])
    about = about_run("slices", "tiny", TORSO, work / "prepared", str(initial))
    assert "tissue" not in about
    assert about["autoencoder"] == noted["autoencoder"]


def test_a_card_tells_of_the_weights_that_were_exported(tmp_path) -> None:
    steps = [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3}]
    best = {"step": 1, "total": 0.25, "best": True}
    write = {"log.jsonl": steps, "validation.jsonl": [best, {"step": 3, "total": 0.5, "best": False}]}
    for name, lines in write.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert with_stage("", "masks", run_facts(tmp_path)).endswith("| ? | total 0.25 (step 2) |\n")
    assert with_stage("", "masks", run_facts(tmp_path, "last")).endswith("| total 0.5 (step 4), the last weights |\n")
    (tmp_path / "validation.jsonl").write_text(json.dumps(best) + "\n")
    assert with_stage("", "masks", run_facts(tmp_path, "last")).endswith("| not validated, the last weights |\n")


def test_slices_are_not_gone_on_with_in_the_latents_of_another_autoencoder(work, tmp_path, capsys) -> None:
    run, other = tmp_path / "slices", tmp_path / "autoencoder"
    shutil.copytree(work / "runs" / "slices", run)
    before = {path.name: path.read_bytes() for path in (run / "autoencoder").iterdir()}
    assert main(train("autoencoder", work / "prepared", other, work, "--learning-rate", "0.01")) == 0
    words = train("slices", work / "prepared", run, work)
    words[words.index("--autoencoder") + 1] = str(other)
    assert main(words) == 1
    assert f"{run} was begun with another autoencoder" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (run / "autoencoder").iterdir()} == before
    assert main(train("slices", work / "prepared", run, work)) == 0


@pytest.mark.parametrize("stage", ["autoencoder", "masks", "tissue", "detail", "slices", "decoder"])
def test_no_stage_reads_the_cases_that_are_left_out(work, tmp_path, monkeypatch, stage) -> None:
    read, reading = set(), np.lib.npyio.NpzFile.__getitem__

    def seen(file, name):
        if name in ("label_map", "ct_hu"):
            read.add(Path(file.zip.filename).name)
        return reading(file, name)

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", seen)
    assert main(train(stage, work / "prepared", tmp_path / "run", work, "--leave-out", "p0", "p2")) == 0
    assert read == {"case-000001.npz", "case-000003.npz"}
    assert [load_case(p).base for p in case_paths(work / "prepared" / "train")] == ["p0", "p1", "p2", "p3"]


def test_what_is_left_out_is_noted_and_on_the_card_and_asked_for_again(work, tmp_path, capsys) -> None:
    run, words = tmp_path / "masks", train("masks", work / "prepared", tmp_path / "masks", work)
    assert main([*words, "--leave-out", "p2", "p1"]) == 0
    about = json.loads((run / "about.json").read_text())
    assert about["left_out"] == ["p1", "p2"]
    assert about["patients"] == {"train": 2}
    card = model_card("mine", read_anatomy(run / "anatomy.yaml"), run, work / "runs" / "slices", "")
    assert "| masks | tiny, without p1, p2 | 2 of" in card
    assert "| autoencoder | tiny | 2 of" in card
    assert main([*words, "--leave-out", "p1", "p2"]) == 0
    assert main(words) == 1
    assert "was begun with other --leave-out;" in capsys.readouterr().err


def test_a_name_to_leave_out_that_there_is_none_of_is_refused(work, tmp_path, capsys) -> None:
    for stage, data in (("masks", "prepared"), ("autoencoder", "src")):
        assert main(train(stage, work / data, tmp_path / stage, work, "--leave-out", "p0", "P1")) == 1
        told = capsys.readouterr().err
        assert f"names ['P1'], of which {work / data} holds nothing to train on" in told
        assert "named like p0, p1, p2, p3." in told
        assert not (tmp_path / stage).exists()
    everything = ["p0", "p1", "p2", "p3"]
    for data in ("prepared", "src"):
        with pytest.raises(SourceError, match="that is not left out"):
            read_training_cts(work / data, (12.0, 12.0, 12.0), everything)


def test_of_raw_cts_those_left_out_are_not_read(work) -> None:
    whole, some = (read_training_cts(work / "src", (12.0, 12.0, 12.0), names) for names in ((), ("p0", "p2")))
    assert (len(whole), len(some)) == (8, 4)
    assert all((a == b).all() for a, b in zip(some, [*whole[2:4], *whole[6:8]], strict=True))


def test_as_many_cases_of_which_others_are_left_out_are_not_taken_for_the_same(work) -> None:
    folder, table = work / "prepared" / "train", read_anatomy(work / "prepared" / "anatomy.yaml")
    first, last = (load_mask_data(folder, table, TextEncoder(), (16, 16, 16), leave_out=(p,)) for p in ("p0", "p3"))
    assert len(first.labels) == len(last.labels) == 3
    assert (first.labels[:2] == last.labels[1:]).all()
    assert not (first.labels == last.labels).all()
