"""Reports that a chat model reads: it reads once, its reading is part of the recipe, and the folder says so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ellipsoids import EllipsoidGenerator
from test_abstraction_llm import TOKENIZER, tiny_model
from test_shards import contents

from guidegen_data.anatomy import TORSO
from guidegen_data.cli.main import main, shard
from guidegen_data.errors import ShardError
from guidegen_data.models.language_model import load_abstractor
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings
from guidegen_data.shards.blocks import generate_block
from guidegen_data.shards.folder import ShardFolder
from guidegen_data.shards.manifest import read_config
from guidegen_data.shards.plan import ReportSource, make_recipe
from guidegen_data.shards.storage import folder_at
from guidegen_data.shards.verify import problems
from guidegen_data.shards.writer import encode_case

pytestmark = pytest.mark.usefixtures("cheap_model")
REPORT = "CT abdomen with contrast. 24 mm hypodense mass in the left hepatic lobe."


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("chat")
    tiny_model(3).save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return str(path)


def command(chat_model: str, *more: str) -> list[str]:
    return ["--n", "2", "--no-qc", "--report", REPORT, "--abstractor", chat_model, "--out", "a", *more]


def test_cases_show_what_the_chat_model_read_and_the_folder_holds_its_reading(chat_model: str, capsys) -> None:
    assert shard(command(chat_model)) == 0
    assert "report 1: " in (told := capsys.readouterr().err)
    assert ": the rules read " in told
    expected = load_abstractor(chat_model)(REPORT, TORSO).findings
    assert expected != abstract_report(REPORT, TORSO).findings
    lines = [json.loads(line) for line in Path("a/manifest.jsonl").read_text().splitlines()]
    assert [Findings.from_dict(line["findings"]) for line in lines] == [expected] * 2
    recipe = read_config(folder_at("a")).recipe
    assert recipe.abstractor == chat_model
    assert [Findings.from_dict(json.loads(reading)) for reading in recipe.readings] == [expected]
    assert f"read by the chat model `{chat_model}`" in Path("a/README.md").read_text()
    assert main(["verify", "a"]) == 0


def test_a_run_goes_on_with_the_same_reader_only(chat_model: str, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    tiny_model(4).save_pretrained(other)
    TOKENIZER.save_pretrained(other)
    assert shard(command(chat_model)) == 0
    before = contents(Path("a"))
    assert shard(command(chat_model)) == 0
    for arguments in (command(str(other)), ["--n", "2", "--no-qc", "--report", REPORT, "--out", "a"]):
        capsys.readouterr()
        assert shard(arguments) == 1
        assert "abstractor " in capsys.readouterr().err
    assert contents(Path("a")) == before


def test_the_same_name_with_other_weights_is_another_reading() -> None:
    findings = [Findings(region=region) for region in ("chest", "abdomen")]
    recipes = [make_recipe(EllipsoidGenerator(), reports=[REPORT], abstractor="m", readings=[f]) for f in findings]
    assert recipes[0].sha256 != recipes[1].sha256
    with pytest.raises(ShardError, match="one reading by the abstractor a report, got 0 for 1"):
        replace(recipes[0], readings=())


def test_a_model_that_reads_needs_a_report_to_read(chat_model: str, capsys) -> None:
    assert shard(["--n", "2", "--abstractor", chat_model, "--out", "a"]) == 1
    assert "give a --report" in capsys.readouterr().err
    assert not Path("a").exists()


def test_verify_holds_the_findings_to_the_reading(generator, config, tmp_path: Path) -> None:
    read = Findings(region="chest")
    recipe = make_recipe(generator, reports=[REPORT], abstractor="m", readings=[read], quality_control=False)
    cases = generate_block(generator, recipe, ReportSource(recipe, generator.anatomy), 0)
    for wrong in (False, True):
        if wrong:
            told = abstract_report(REPORT, TORSO).findings
            cases[1] = replace(cases[1], findings=told, provenance={**cases[1].provenance, "findings": told.to_dict()})
        path = tmp_path / str(wrong)
        with ShardFolder(path, replace(config, recipe=recipe, n=4, shard_size=4)) as folder:
            folder.add_block(0, [encode_case(case) for case in cases])
            folder.finish()
        found = [(p.key, p.what) for p in problems(path) if "abstractor" in p.what]
        expected = [("s000000001", "its findings are not those that the abstractor read in its report")]
        assert found == (expected if wrong else [])
