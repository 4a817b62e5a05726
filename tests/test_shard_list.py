"""Which shards make one data set: no case counts double, and a folder that is not finished says so."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest

from guidegen_data.dataset import GuideGenDataset
from guidegen_data.errors import ShardError


@pytest.fixture
def other(shards, tmp_path) -> Path:
    """What a second run with the same settings writes."""
    return Path(shutil.copytree(shards, tmp_path / "other"))


def rewrite(folder: Path, **changes) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({k: v for k, v in (index | changes).items() if v is not None}))


def test_two_folders_of_one_recipe_are_refused_where_their_cases_are_the_same(shards, other) -> None:
    for given in ([shards, other], [shards / "shard-000001.tar", other], f"{{{shards},{other}}}/shard-000002.tar"):
        with pytest.raises(ShardError, match=r"hold the same cases.*another --seed"):
            GuideGenDataset(given)
    assert len(GuideGenDataset([shards / "shard-000001.tar", other / "shard-000000.tar"])) == 6


def test_cases_are_the_same_whatever_the_shards_that_hold_them(shards, other) -> None:
    """The other run made one large shard: its first case is not that of any shard but the first."""
    entries = json.loads((other / "index.json").read_text())["shards"]
    rewrite(other, shards=[entries[0] | {"last_key": entries[-1]["last_key"]}], num_planned=3)
    with pytest.raises(ShardError, match="hold the same cases"):
        GuideGenDataset([shards / "shard-000002.tar", other])


@pytest.mark.parametrize("recipe", [None, "another"])
def test_folders_of_other_recipes_or_of_writers_that_name_none_are_one_data_set(shards, other, recipe) -> None:
    rewrite(other, recipe_sha256=recipe)
    assert len(GuideGenDataset([shards, other])) == 20
    assert len(GuideGenDataset([other, shards / "shard-000000.tar"])) == 13


def test_a_shard_is_named_twice_however_it_is_spelled(shards, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(shards.parent)
    (tmp_path / "link").symlink_to(shards)
    name = "shard-000001.tar"
    for spelled in (f"{shards.name}/{name}", f"./{shards.name}/{name}", f"file://{shards}/{name}"):
        with pytest.raises(ShardError, match="named twice"):
            GuideGenDataset([shards / name, spelled])
    for spelled in (os.path.relpath(shards), tmp_path / "link"):
        with pytest.raises(ShardError, match="named twice"):
            GuideGenDataset([shards, spelled])
        assert len(GuideGenDataset([f"{spelled}/shard-000000.tar", shards / name])) == 6


def test_a_folder_with_fewer_cases_than_planned_says_both_numbers_once(shards, other) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GuideGenDataset(shards)
        GuideGenDataset(other / "shard-000000.tar")
    rewrite(other, num_planned=640)
    with pytest.warns(UserWarning, match="holds 10 of 640 planned cases") as told:
        dataset = GuideGenDataset(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len([dataset[i] for i in range(2)]) == 2
    assert [Path(one.filename).name for one in told] == [Path(__file__).name]
    rewrite(other, num_planned=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GuideGenDataset(other)
