"""What surrounds the shards: repair, verification of reports, card, histograms, Croissant, estimates, devices."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ellipsoids import EllipsoidGenerator
from PIL import Image
from test_shards import contents

from guidegen_data.anatomy import TORSO
from guidegen_data.cli.main import main, shard
from guidegen_data.errors import ShardError
from guidegen_data.shards import estimate, generators
from guidegen_data.shards.blocks import generate_block
from guidegen_data.shards.estimate import Estimate, bytes_needed, check_disk, duration, measure
from guidegen_data.shards.folder import ShardFolder
from guidegen_data.shards.generators import worker_devices
from guidegen_data.shards.histograms import histograms_png
from guidegen_data.shards.manifest import RunConfig
from guidegen_data.shards.plan import ReportSource, make_recipe
from guidegen_data.shards.reader import ShardReader
from guidegen_data.shards.repair import repair
from guidegen_data.shards.statistics import SIZE_BANDS_MM, Statistics, band_name, band_of
from guidegen_data.shards.storage import LocalFolder
from guidegen_data.shards.verify import problems
from guidegen_data.shards.workers import fill_folder, make_shards
from guidegen_data.shards.writer import encode_case


def flip(path: Path, mark: bytes, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(mark) + offset] ^= 1
    path.write_bytes(data)


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def list_twice(folder: Path) -> None:
    """One shard listed twice, the other gone; the totals are right."""
    index = json.loads((folder / "index.json").read_text())
    index["shards"][1] = index["shards"][0]
    index["num_rejects"] = 2 * index["shards"][0]["num_rejects"]
    index["reject_share"] = round(index["num_rejects"] / (16 + index["num_rejects"]), 6)
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "shard-000001.tar").unlink()


DAMAGE: dict[str, tuple[Callable[[Path], Any], set[int]]] = {
    "one case altered": (lambda d: flip(d / "shard-000000.tar", b"s000000001.report.txt", 600), {0}),
    "padding altered": (lambda d: flip(d / "shard-000001.tar", bytes(1024), 1000), set()),
    "shard missing": (lambda d: (d / "shard-000000.tar").unlink(), {0, 1}),
    "shard truncated": (lambda d: (d / "shard-000001.tar").write_bytes(b"x" * 700), {2, 3}),
    "label table missing": (lambda d: (d / "anatomy.yaml").unlink(), set()),
    "label table damaged": (lambda d: (d / "anatomy.yaml").write_text("name: torso"), set()),
    "index missing": (lambda d: (d / "index.json").unlink(), set()),
    "index damaged": (lambda d: (d / "index.json").write_text('{"shards": 3}'), set()),
    "manifest altered": (lambda d: flip(d / "manifest.jsonl", b'"passed": true', 4), set()),
    "manifest is no JSON": (lambda d: (d / "manifest.jsonl").write_text("{" * 12), set()),
    "rejects altered": (lambda d: (d / "rejects.jsonl").write_text(""), set()),
    "card missing": (lambda d: (d / "README.md").unlink(), set()),
    "index lists a shard twice": (lambda d: list_twice(d), {2, 3}),
    "metadata altered": (lambda d: flip(d / "shard-000000.tar", b'"generator": "ellipsoids"', 17), {0}),
    "attempt altered": (lambda d: flip(d / "shard-000000.tar", b'"attempt": 0', 11), {0}),
    "card empty": (lambda d: (d / "README.md").write_text(""), set()),
    "histograms empty": (lambda d: (d / "histograms.png").write_text(""), set()),
    "manifest has a line too many": (lambda d: append(d / "manifest.jsonl", '{"key": "s000000099"}\n'), set()),
    "a manifest line names no case": (lambda d: append(d / "manifest.jsonl", "[]\n"), set()),
    "a stray shard": (lambda d: shutil.copy(d / "shard-000000.tar", d / "shard-000009.tar"), set()),
}


@pytest.fixture(scope="module")
def pairs(generator: EllipsoidGenerator, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    """Sixteen cases, two blocks a shard."""
    config = RunConfig(make_recipe(generator, seed=2), n=16, model="ellipsoids", shard_size=8)
    folder = tmp_path_factory.mktemp("pairs") / "whole"
    for _ in make_shards(folder, config, lambda: generator):
        pass
    return folder, config


@pytest.mark.parametrize("what", DAMAGE)
def test_repair_makes_just_what_is_wrong_anew(pairs, generator: EllipsoidGenerator, tmp_path: Path, what: str) -> None:
    whole, _ = pairs
    folder, trace = tmp_path / "copy", tmp_path / "trace"
    shutil.copytree(whole, folder)
    hurt, blocks = DAMAGE[what]
    hurt(folder)
    found = list(problems(folder))
    assert found
    for _ in repair(LocalFolder(folder), found, lambda: replace(generator, trace=trace)):
        pass
    assert list(problems(folder)) == []
    assert contents(folder) == contents(whole)
    begun = [line.split() for line in trace.read_text().splitlines()] if trace.exists() else []
    assert {int(words[1][1:]) // 4 for words in begun if len(words) > 2} == blocks


def test_repair_refuses_another_model_or_program_before_it_removes_anything(pairs, generator, tmp_path: Path) -> None:
    whole, _ = pairs
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    flip(folder / "shard-000000.tar", b"s000000001.report.txt", 600)
    before = contents(folder)
    found = list(problems(folder))
    with pytest.raises(ShardError, match="--model"):
        next(repair(LocalFolder(folder), found, lambda: replace(generator, version="2")))
    assert contents(folder) == before
    run = json.loads((folder / "run.json").read_text())
    run["config"]["recipe"]["package_version"] = "0.0.1"
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(ShardError, match=r"0\.0\.1"):
        next(repair(LocalFolder(folder), found, lambda: generator))


def test_the_repair_command_tells_what_it_kept(cheap_model, capsys) -> None:
    assert shard(["--n", "8", "--out", "a"]) == 0
    before = contents(Path("a"))
    flip(Path("a/shard-000000.tar"), b"s000000005.report.txt", 600)
    assert main(["verify", "a"]) == 1
    assert main(["verify", "a", "--repair"]) == 0
    out = capsys.readouterr().out
    assert "kept 4 cases, generated 4 again" in out
    assert out.endswith("a: 8 cases in 1 shards, all well\n")
    assert contents(Path("a")) == before


class Computing(EllipsoidGenerator):
    """Says what it computes in."""

    dtype = torch.float32


def test_cases_tell_what_they_were_computed_in_and_verify_what_was_mixed(cheap_model, monkeypatch, capsys) -> None:
    monkeypatch.setattr(generators, "load_generator", lambda model, device: Computing(misses=0))
    assert shard(["--n", "8", "--out", "a"]) == 0
    assert {case.provenance["generation"]["arithmetic"] for case in ShardReader("a")} == {"float32"}
    assert main(["verify", "a"]) == 0
    assert "arithmetic" not in capsys.readouterr().err
    monkeypatch.setattr(Computing, "dtype", torch.bfloat16)
    flip(Path("a/shard-000000.tar"), b"s000000005.report.txt", 600)
    assert main(["verify", "a", "--repair"]) == 0
    assert "different arithmetic (4 in bfloat16, 4 in float32)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ("CT abdomen. 30 mm mass in the pancreatic tail.", "lesions that its findings lack"),
        ("CT abdomen and pelvis. Status post splenectomy.", "organ statuses that its findings lack"),
    ],
)
def test_verify_holds_the_report_against_the_findings(generator, tmp_path: Path, report: str, told: str) -> None:
    config = RunConfig(make_recipe(generator, seed=1), n=4, model="ellipsoids", shard_size=4)
    cases = generate_block(generator, config.recipe, ReportSource(config.recipe, generator.anatomy), 0)
    plain = [i for i, c in enumerate(cases) if "spleen" not in c.findings.organs and "pancreas" not in str(c.findings)]
    cases[plain[0]] = replace(cases[plain[0]], report=report)
    with ShardFolder(tmp_path, config) as folder:
        folder.add_block(0, [encode_case(case) for case in cases])
        folder.finish()
    found = list(problems(tmp_path))
    assert {problem.key for problem in found} == {cases[plain[0]].key}
    assert any(told in problem.what for problem in found)


def test_verify_holds_the_findings_against_the_label_map(generator, tmp_path: Path) -> None:
    """An organ painted over after the verdict: checksums and volumes are true, the verdict is not."""
    config = RunConfig(make_recipe(generator, seed=1), n=4, model="ellipsoids", shard_size=4)
    cases = generate_block(generator, config.recipe, ReportSource(config.recipe, generator.anatomy), 0)
    label_map = np.where(cases[2].label_map == TORSO.ids["liver"], TORSO.lesion_id, cases[2].label_map)
    painted = replace(cases[2], label_map=label_map)
    cases[2] = replace(painted, provenance={**painted.provenance, "volumes_ml": painted.volumes_ml()})
    with ShardFolder(tmp_path, config) as folder:
        folder.add_block(0, [encode_case(case) for case in cases])
        folder.finish()
    told = {problem.what for problem in problems(tmp_path)}
    assert any("verdict" in what for what in told)
    assert any("does not fit the report" in what for what in told)


def test_the_card_carries_the_licence_chain_of_the_model(generator, config: RunConfig, tmp_path: Path) -> None:
    card = "# Model card\n\n## Data and licences\nSeven people, CC BY 4.0.\n\n## Figures\nSecret.\n"

    def compute(blocks):
        from guidegen_data.shards.workers import compute_blocks

        return compute_blocks(config.recipe, [lambda: generator], blocks, config.n)

    for _ in fill_folder(tmp_path, config, compute, model_card=card):
        pass
    text = (tmp_path / "README.md").read_text()
    assert "From the model card: Data and licences" in text
    assert "Seven people, CC BY 4.0." in text
    assert "Secret" not in text
    assert (tmp_path / "model-card.md").read_text() == card
    index = json.loads((tmp_path / "index.json").read_text())
    assert f"({index['reject_share']:.1%}) were rejected" in text


def test_the_card_says_so_when_the_model_has_no_card(shards: Path) -> None:
    assert "the model came without a card" in (shards / "README.md").read_text()


def test_the_coverage_table_counts_every_lesion_once(shards: Path) -> None:
    lesions = [lesion for case in ShardReader(shards) for lesion in case.findings.lesions]
    rows = [line.split("|")[1:-1] for line in (shards / "README.md").read_text().splitlines() if line.count("|") == 8]
    head, body = rows[0], rows[2:]
    assert head[2].strip() == "under 15 mm"
    cells = {(r[0].strip(), r[1].strip().replace("-", ""), i): n.strip() for r in body for i, n in enumerate(r[2:])}
    assert sum(int(n) for n in cells.values() if n != "-") == len(lesions)
    for lesion in lesions:
        assert cells[lesion.organ, lesion.site.replace("-", ""), band_of(lesion.size_mm)] != "-"


@pytest.mark.parametrize(
    ("size", "name"), [(6, "under 15 mm"), (15, "15 to 25 mm"), (79.9, "40 to 80 mm"), (120, "80")]
)
def test_size_bands_meet_without_gap(size: float, name: str) -> None:
    assert band_name(band_of(size)).startswith(name)
    assert band_of(size) in range(len(SIZE_BANDS_MM))


def test_histograms_draw_every_class_and_do_not_fall_over_nothing(shards: Path) -> None:
    with Image.open(shards / "histograms.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20)}
    present = {name for case in ShardReader(shards) for name, ml in case.volumes_ml().items() if ml > 0}
    assert {organ.colour for organ in TORSO.classes[1:] if organ.name in present} <= colours
    assert Image.open(io.BytesIO(histograms_png(Statistics(TORSO)))).size[0] > 1000


def test_the_croissant_description_names_every_shard_and_column(shards: Path) -> None:
    described = json.loads((shards / "croissant.json").read_text())
    index = json.loads((shards / "index.json").read_text())
    files = {f["@id"]: f for f in described["distribution"] if f["@type"] == "cr:FileObject"}
    assert {s["name"]: s["sha256"] for s in index["shards"]}.items() <= {
        n: f["sha256"] for n, f in files.items()
    }.items()
    line = json.loads((shards / "manifest.jsonl").read_text().splitlines()[0])
    for column in described["recordSet"][0]["field"]:
        assert column["source"]["extract"]["column"] in line
    assert {f["includes"] for f in described["distribution"] if f["@type"] == "cr:FileSet"} == {
        "*.ct.nii.gz", "*.label.nii.gz", "*.report.txt", "*.meta.json",
    }  # fmt: skip


class Stepwise(EllipsoidGenerator):
    """Takes 1 s a case, and 2 s and 5 s more for every further step of mask and CT, on the clock given."""

    config = SimpleNamespace(num_steps_mask=16, num_steps_ct=3)
    now = 0.0

    def generate(self, *lists, num_steps_mask=None, num_steps_ct=None, guidance=None):
        Stepwise.now += len(lists[0]) * (1 + 2 * (num_steps_mask - 1) + 5 * (num_steps_ct - 1))
        return super().generate(*lists)


@pytest.mark.parametrize(("mask", "ct", "seconds"), [(None, None, 1 + 30 + 10), (4, 1, 7), (1, 1, 1)])
def test_the_estimate_follows_from_a_few_steps(monkeypatch, mask, ct, seconds: float) -> None:
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: Stepwise.now)
    generator = Stepwise(misses=0)
    found = measure(generator, make_recipe(generator, num_steps_mask=mask, num_steps_ct=ct))
    assert found.seconds_a_case == pytest.approx(seconds)
    assert found.peak_gib > 0.01


def test_the_disk_must_hold_what_is_still_missing(pairs, generator, tmp_path, monkeypatch) -> None:
    whole, config = pairs
    needed = bytes_needed(config, generator.anatomy)
    assert needed > sum(path.stat().st_size for path in whole.glob("*.tar"))
    half, left = tmp_path / "half", bytes_needed(replace(config, n=8), generator.anatomy)
    shutil.copytree(whole, half)
    (half / "shard-000001.tar").unlink()
    for folder, free, refused in (
        (tmp_path / "new", needed - 1, True),
        (tmp_path / "new", needed + 1, False),
        (half, left - 1, True),
        (half, left + 1, False),
        (whole, 0, False),  # nothing is missing
    ):
        monkeypatch.setattr(LocalFolder, "free_bytes", lambda self, free=free: int(free))
        if refused:
            with pytest.raises(ShardError, match="GB free"):
                check_disk(LocalFolder(folder), config, generator.anatomy)
        else:
            check_disk(LocalFolder(folder), config, generator.anatomy)


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (300, "5 min"), (12_000, "3 h 20 min")])
def test_durations_are_told_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_dry_run_and_a_long_run_tell_time_and_memory(cheap_model, capsys, monkeypatch) -> None:
    monkeypatch.setattr(estimate, "measure", lambda generator, recipe: Estimate(9.0, 1.5))
    assert shard(["--n", "4000", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "about 10 h 00 min for 4000 cases with 1 worker on auto" in out
    assert "about 1.50 GiB of memory a process" in out
    monkeypatch.setattr("guidegen_data.cli.shard._WORTH_MEASURING", 8)
    assert shard(["--n", "8", "--workers", "2", "--out", "a"]) == 0
    assert "3.00 GiB in all" in capsys.readouterr().err
    assert shard(["--n", "8", "--out", "a"]) == 0
    assert capsys.readouterr().err == ""  # nothing is left to do


def test_more_memory_than_there_is_is_told(cheap_model, capsys, monkeypatch) -> None:
    monkeypatch.setattr(estimate, "measure", lambda generator, recipe: Estimate(9.0, 1e6))
    assert shard(["--n", "8", "--workers", "2", "--dry-run"]) == 0
    assert "fewer --workers" in capsys.readouterr().out


def test_coverage_sampling_is_another_configuration_and_puts_a_lesion_into_every_case(cheap_model, capsys) -> None:
    assert shard(["--n", "4", "--no-qc", "--sampling", "coverage", "--out", "a"]) == 0
    lines = [json.loads(line) for line in Path("a/manifest.jsonl").read_text().splitlines()]
    assert all(len(line["findings"]["lesions"]) == 1 for line in lines)
    assert len({json.dumps(line["findings"]) for line in lines}) == 4
    assert shard(["--n", "4", "--no-qc", "--out", "a"]) == 1
    assert "sampling coverage, not prevalence" in capsys.readouterr().err


def test_shards_of_organs_alone_show_every_organ_of_the_field_and_are_gone_on_with_as_such(cheap_model, capsys) -> None:
    assert shard(["--n", "24", "--no-qc", "--sampling", "organs", "--out", "a"]) == 0
    asked = [json.loads(line)["findings"] for line in Path("a/manifest.jsonl").read_text().splitlines()]
    assert len(asked) == 24
    assert not any(findings["lesions"] for findings in asked)
    assert {"enlarged", "small"} == {status for findings in asked for status in findings["organs"].values()}
    assert shard(["--n", "24", "--no-qc", "--out", "b"]) == 0
    usual = [json.loads(line)["findings"] for line in Path("b/manifest.jsonl").read_text().splitlines()]
    assert any(findings["lesions"] for findings in usual)
    assert "absent" in {status for findings in usual for status in findings["organs"].values()}
    assert shard(["--n", "24", "--no-qc", "--out", "a"]) == 1
    assert "sampling organs, not prevalence" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "kind", "workers", "gpus", "expected"),
    [
        ("auto", "cuda", None, 8, [f"cuda:{i}" for i in range(8)]),
        ("cuda", "cuda", 3, 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", "cuda", 2, 4, ["cuda:1", "cuda:1"]),
        ("cuda:1", "cuda", None, 4, ["cuda:1"]),
        ("auto", "cpu", 3, 0, ["auto"] * 3),
        ("cpu", "cpu", None, 0, ["cpu"] * 4),
        ("mps", "mps", None, 0, ["mps"]),
    ],
)
def test_auto_gives_every_gpu_a_worker(monkeypatch, device, kind, workers, gpus, expected) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(generators, "num_cores", lambda: 8)
    assert worker_devices(device, kind, workers) == expected


def test_auto_workers_on_the_command_line_write_the_same_bytes(cheap_model, monkeypatch) -> None:
    monkeypatch.setattr(generators, "num_cores", lambda: 4)
    assert shard(["--n", "8", "--out", "a"]) == 0
    assert shard(["--n", "8", "--out", "b", "--workers", "auto"]) == 0
    assert contents(Path("a")) == contents(Path("b"))
