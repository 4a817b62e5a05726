"""The commands as typed: what they print, where, and how they end."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from ellipsoids import EllipsoidGenerator
from PIL import Image
from test_shards import contents, damage

from guidegen_data.cli.main import COMMANDS, main, shard
from guidegen_data.shards import storage

pytestmark = pytest.mark.usefixtures("cheap_model")
REPORT = "CT abdomen and pelvis with contrast. 24 mm mass in the sigmoid colon. Status post cholecystectomy."


def test_guidegen_shard_fills_the_default_folder(capsys, tmp_path: Path) -> None:
    assert shard(["--n", "5", "--shard-size", "4"]) == 0
    out, err = capsys.readouterr()
    assert out == "guidegen-shard: 5 cases in 2 shards\n"
    assert err == ""  # no progress bar where stderr is no terminal
    assert (tmp_path / "guidegen-shard/shard-000001.tar").exists()
    assert main(["verify", "guidegen-shard"]) == 0
    assert capsys.readouterr().out == "guidegen-shard: 5 cases in 2 shards, all well\n"


def test_both_names_of_the_command_do_the_same() -> None:
    assert main(["shard", "--n", "1", "--out", "a"]) == shard(["--n", "1", "--out", "b"]) == 0
    assert contents(Path("a")) == contents(Path("b"))


def test_run_json_holds_the_whole_configuration() -> None:
    assert shard(["--n", "3", "--seed", "7", "--steps-mask", "9", "--guidance", "1.5", "--no-qc", "--out", "a"]) == 0
    config = json.loads(Path("a/run.json").read_text())["config"]
    assert (config["n"], config["model"], config["shard_size"]) == (3, "torso", 64)
    recipe = config["recipe"]
    assert (recipe["seed"], recipe["num_steps_mask"], recipe["num_steps_ct"]) == (7, 9, None)
    assert (recipe["guidance"], recipe["quality_control"], recipe["block_size"]) == (1.5, False, 4)
    assert recipe["templates"] == "torso"


def test_a_report_drives_the_case_and_what_was_read_is_told_on_stderr(capsys) -> None:
    assert shard(["--n", "1", "--report", REPORT, "--out", "a"]) == 0
    err = capsys.readouterr().err
    assert err.count("report 1: understood: ") > 2
    line = json.loads(Path("a/manifest.jsonl").read_text())
    assert line["findings"]["organs"] == {"gallbladder": "absent"}
    assert line["findings"]["lesions"][0] | {"attenuation": ""} == {
        "organ": "colon", "site": "sigmoid", "size_mm": 24.0, "attenuation": "",
    }  # fmt: skip
    assert line["volumes_ml"]["gallbladder"] == 0 < line["volumes_ml"]["tumour"]


def test_a_dry_run_prints_the_plan_and_makes_nothing(capsys, tmp_path: Path) -> None:
    assert shard(["--n", "130", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "3 shards in guidegen-shard, generated in 33 blocks of 4" in out
    assert "GB of disk" in out
    assert list(tmp_path.iterdir()) == []


def test_own_templates_word_the_findings() -> None:
    Path("mine.yaml").write_text("- name: plain\n  text: 'My words. {exam} {findings}'\n")
    assert shard(["--n", "2", "--templates", "mine.yaml", "--out", "a"]) == 0
    recipe = json.loads(Path("a/run.json").read_text())["config"]["recipe"]
    assert len(recipe["templates_sha256"]) == 64
    Path("mine.yaml").write_text("- name: plain\n  text: 'Other words. {exam} {findings}'\n")
    assert shard(["--n", "2", "--templates", "mine.yaml", "--out", "a"]) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--report", "The weather was fine."], "report"),
        (["--report", "CT abdomen. Cholecystectomy. The gallbladder is enlarged."], "gallbladder"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--templates", "nowhere.yaml"], "nowhere.yaml"),
        (["--templates", "unknown.yaml"], "colour"),
        (["--templates", "torso", "--report", REPORT], "--templates"),
        (["--out", "occupied"], "thesis.tex"),
        (["--out", "occupied/thesis.tex"], "is a file"),
        (["--n", "100000000"], "GB free"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_anything_is_written(capsys, tmp_path, arguments, sentence) -> None:
    Path("occupied").mkdir()
    Path("occupied/thesis.tex").write_text("years of work")
    Path("unknown.yaml").write_text("- name: a\n  text: 'The {colour} of it.'\n")
    before = contents(tmp_path)
    assert shard(["--n", "2", *arguments]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len([line for line in err if not line.startswith("report ")]) == 1
    assert err[-1].startswith("guidegen-shard: ")
    assert sentence in err[-1]
    assert contents(tmp_path) == before


def test_a_full_disk_is_told_in_a_sentence_and_the_same_command_goes_on(capsys, monkeypatch) -> None:
    sync = os.fsync

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    assert shard(["--n", "2", "--out", "a"]) == 1
    assert "disk is full" in capsys.readouterr().err
    assert not [p for p in Path("a").rglob("*.t*")]
    monkeypatch.setattr(storage.os, "fsync", sync)
    assert shard(["--n", "2", "--out", "a"]) == 0


def test_an_interrupt_says_how_to_go_on(capsys, monkeypatch) -> None:
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(EllipsoidGenerator, "generate", interrupted)
    assert shard(["--n", "2"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_workers_given_on_the_command_line_write_the_same_bytes(monkeypatch) -> None:
    assert shard(["--n", "8", "--out", "a"]) == 0
    assert shard(["--n", "8", "--out", "b", "--workers", "2"]) == 0
    assert contents(Path("a")) == contents(Path("b"))


@pytest.mark.parametrize("arguments", [[], ["--n", "0"], ["--n", "two"], ["--n", "1", "--seed", "-1"], ["--m", "x"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as left:
        shard(arguments)
    assert left.value.code == 2
    assert "usage: guidegen-shard" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["draw"], ["--n", "4"]])
def test_an_unknown_command_ends_with_2(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: guidegen" in capsys.readouterr().err


def test_help_lists_every_command(capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys) -> None:
    assert import_module(f"guidegen_data.cli.{name}").HELP
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"usage: guidegen {name}" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["missing", "truncated", "altered", "not a tar"])
def test_verify_names_file_and_case_of_what_is_wrong(what: str, capsys) -> None:
    assert shard(["--n", "2", "--out", "a"]) == 0
    capsys.readouterr()
    damage(Path("a/shard-000000.tar"), what)
    assert main(["verify", "a"]) == 1
    out, err = capsys.readouterr()
    assert all(line.startswith("shard-000000.tar: ") for line in out.splitlines())
    assert ("s000000000" in out) == (what == "altered")
    assert "problems in a" in err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"report": " "}, "the report is empty"),
        ({"label_map": None}, "volumes in its metadata"),
        ({"provenance": "label_table"}, "its label table"),
        ({"provenance": "recipe_sha256"}, "another recipe"),
        ({"provenance": "shape"}, "the grid in its metadata"),
    ],
)
def test_verify_looks_into_every_case(change: dict, told: str, generator, config, tmp_path) -> None:
    from guidegen_data.shards.blocks import generate_block
    from guidegen_data.shards.folder import ShardFolder
    from guidegen_data.shards.plan import ReportSource
    from guidegen_data.shards.verify import problems
    from guidegen_data.shards.writer import encode_case

    cases = generate_block(generator, config.recipe, ReportSource(config.recipe, generator.anatomy), 0)
    values = {
        "report": " ",
        "label_map": cases[1].label_map[::-1].copy() * 0,
        "provenance": {**cases[1].provenance, **{change.get("provenance", ""): "other"}},
    }
    cases[1] = replace(cases[1], **{name: values[name] for name in change})
    with ShardFolder(tmp_path, replace(config, n=4, shard_size=4)) as folder:
        folder.add_block(0, [encode_case(case) for case in cases])
        folder.finish()
    found = list(problems(tmp_path))
    assert {problem.key for problem in found} == {"s000000001"}
    assert any(told in problem.what for problem in found)


def test_verify_tells_an_unfinished_run_and_stray_shards(capsys) -> None:
    assert shard(["--n", "5", "--shard-size", "4", "--out", "a"]) == 0
    index = json.loads(Path("a/index.json").read_text())
    index["shards"].pop()
    Path("a/index.json").write_text(json.dumps(index))
    assert main(["verify", "a"]) == 1
    out = capsys.readouterr().out
    assert "index.json: 4 cases of 5" in out
    assert "shard-000001.tar: not in index.json" in out


@pytest.mark.parametrize("command", ["verify", "preview"])
def test_a_folder_that_holds_no_shards_is_refused(command: str, capsys) -> None:
    assert main([command, "nowhere"]) == 1
    assert "no shard folder" in capsys.readouterr().err


def test_preview_writes_a_sheet(capsys) -> None:
    assert shard(["--n", "5", "--out", "a"]) == 0
    capsys.readouterr()
    assert main(["preview", "a", "--num", "2"]) == 0
    assert capsys.readouterr().out == "a/preview.png\n"
    assert main(["preview", "a", "--num", "9", "--out", "all.png", "--window", "lung"]) == 0
    two, five = Image.open("a/preview.png"), Image.open("all.png")
    assert five.height > 2 * two.height
    assert main(["verify", "a"]) == 0


def test_help_imports_nothing_heavy() -> None:
    program = "from guidegen_data.cli.main import shard; shard(['--help'])"
    command = [sys.executable, "-X", "importtime", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--report TEXT" in result.stdout
    loaded = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert not loaded & {"torch", "monai", "numpy", "nibabel", "scipy"}
