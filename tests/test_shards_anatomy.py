"""A shard folder carries its label table: cases of a user's own model are read and judged where nobody knows it."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ellipsoids import COARSE_TORSO, EllipsoidGenerator
from test_shards import contents

from guidegen_data.anatomy import ANATOMIES, TORSO, Anatomy
from guidegen_data.anatomy_files import read_anatomy, register
from guidegen_data.cli.main import main
from guidegen_data.dataset import GuideGenDataset
from guidegen_data.errors import LabelMapError, ShardError
from guidegen_data.shards import reader
from guidegen_data.shards.manifest import RunConfig
from guidegen_data.shards.plan import make_recipe
from guidegen_data.shards.repair import repair
from guidegen_data.shards.storage import LocalFolder
from guidegen_data.shards.verify import problems
from guidegen_data.shards.workers import make_shards

GENERATOR = EllipsoidGenerator(misses=0, anatomy=replace(COARSE_TORSO, name="mine"))


def ranged(name: str):
    """The torso's table with a liver as bright as no liver is, as measured on somebody's data."""
    bright = tuple(replace(c, hu=(90.0, 110.0)) if c.name == "liver" else c for c in TORSO.classes)
    return replace(TORSO, name=name, classes=bright)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards of a model with its own table, and a process that has forgotten it."""
    monkeypatch.setattr(reader, "TABLES_KNOWN", set())
    monkeypatch.setitem(ANATOMIES, "mine", TORSO)  # so that the name is gone again after the test
    del ANATOMIES["mine"]
    fill(tmp_path / "out", ranged("mine"))
    del ANATOMIES["mine"]
    return tmp_path / "out"


def fill(folder: Path, table: Anatomy, overwrite: bool = False) -> None:
    """Two cases of a model with that table, which its weights and settings say nothing of."""
    register(table)
    config = RunConfig(make_recipe(GENERATOR, seed=3, templates="torso"), n=2, model="ellipsoids", shard_size=2)
    for _ in make_shards(folder, config, lambda: GENERATOR, overwrite=overwrite):
        pass


def edited() -> Anatomy:
    return replace(ranged("mine"), size_ml={"liver": (900.0, 1600.0)})


def test_cases_of_an_unknown_table_are_read(folder) -> None:
    dataset = GuideGenDataset(str(folder))
    assert dataset.labels["liver"] == TORSO.ids["liver"]
    assert len(list(dataset)) == 2
    assert read_anatomy(folder / "anatomy.yaml") == ranged("mine")


def test_a_new_process_finds_all_well(folder) -> None:
    words = [sys.executable, "-m", "guidegen_data.cli.main", "verify", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cases_are_judged_by_the_ranges_of_their_own_table(folder) -> None:
    assert list(problems(folder)) == []
    del ANATOMIES["mine"]
    path = folder / "anatomy.yaml"
    path.write_text(path.read_text().replace("[90.0, 110.0]", "[900.0, 1100.0]"))
    assert any("quality verdict" in problem.what for problem in problems(folder))


@pytest.mark.parametrize("label_map", [None, {"liver": 1}])
def test_cases_of_two_tables_are_not_read_as_one_data_set(folder, shards, label_map) -> None:
    dataset = GuideGenDataset([shards, folder], label_map=label_map)
    assert len(dataset) == 12
    assert dataset[9]["meta"]["anatomy"] == "torso"
    with pytest.raises(LabelMapError, match=r"expected cases of 'torso'.*got one of 'mine'.*as two data sets"):
        dataset[10]


def test_a_shard_given_as_a_folder_is_refused_with_what_to_give(folder, capsys) -> None:
    for command in ("preview", "verify"):
        assert main([command, str(folder / "shard-000000.tar")]) == 1
        assert "is a file; give the folder that holds it" in capsys.readouterr().err


def test_another_table_of_that_name_is_refused(folder, monkeypatch) -> None:
    monkeypatch.setitem(ANATOMIES, "mine", replace(ranged("mine"), regions=("elbow",)))
    with pytest.raises(ShardError, match="other classes"):
        GuideGenDataset(str(folder))[0]


def test_folders_from_before_there_were_tables_are_read(folder, tmp_path) -> None:
    register(ranged("mine"))
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    (older / "anatomy.yaml").unlink()
    assert len(GuideGenDataset(str(older))) == 2
    assert GuideGenDataset(str(older))[0]["label"].shape[1:] == (32, 32, 32)


def test_a_folder_is_gone_on_with_by_the_table_that_it_was_begun_with(folder) -> None:
    whole = contents(folder)
    (folder / "shard-000000.tar").unlink()
    before = contents(folder)
    with pytest.raises(ShardError, match=r"holds cases of another mine table than the model's: compare its anatomy"):
        fill(folder, edited())
    assert contents(folder) == before
    fill(folder, ranged("mine"))
    assert contents(folder) == whole


def test_cases_of_another_table_are_overwritten(folder) -> None:
    before = contents(folder)
    fill(folder, ranged("mine"), overwrite=True)
    assert contents(folder) == before
    fill(folder, edited(), overwrite=True)
    assert read_anatomy(folder / "anatomy.yaml") == edited()
    assert len(GuideGenDataset(str(folder))) == 2


def test_a_folder_is_not_mended_with_another_table(folder) -> None:
    path = folder / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:-2000])
    before, found = contents(folder), list(problems(folder))
    register(edited())
    with pytest.raises(ShardError, match="holds cases of another mine table"):
        next(repair(LocalFolder(folder), found, lambda: GENERATOR))
    assert contents(folder) == before


def test_cases_on_the_fly_are_kept_apart_by_their_tables(tmp_path) -> None:
    """A model is known by its weights and settings alone; its table says how large organs are and where they lie."""
    trace = tmp_path / "trace"

    def made(table: Anatomy) -> int:
        generator = EllipsoidGenerator(misses=0, trace=trace, anatomy=table)
        assert len(list(GuideGenDataset(model=generator, n=2, cache_dir=tmp_path / "cache", device="cpu"))) == 2
        return len(trace.read_text().splitlines())

    first = made(COARSE_TORSO)
    assert made(COARSE_TORSO) == first
    other = made(replace(COARSE_TORSO, size_ml={"liver": (900.0, 1600.0)}))
    assert other > first
    assert made(COARSE_TORSO) == other
