"""Which cases a folder takes for its own: by the recipe that made them, whatever lies about and wherever files lie."""

import hashlib
import json
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from ellipsoids import EllipsoidGenerator
from test_shards import contents, fill

from guidegen_data.cli.main import main, shard
from guidegen_data.errors import ReportError, ShardError
from guidegen_data.reports import templates
from guidegen_data.shards.folder import ShardFolder
from guidegen_data.shards.manifest import WORK, Recipe, RunConfig, to_json
from guidegen_data.shards.plan import ReportSource, make_recipe
from guidegen_data.shards.reader import ShardReader
from guidegen_data.shards.repair import repair
from guidegen_data.shards.storage import LocalFolder
from guidegen_data.shards.verify import problems
from guidegen_data.shards.workers import make_shards

GENERATOR = EllipsoidGenerator(misses=0)


def config_of(seed: int = 1, n: int = 8, shard_size: int = 8, **settings) -> RunConfig:
    return RunConfig(make_recipe(GENERATOR, seed=seed, **settings), n=n, model="ellipsoids", shard_size=shard_size)


def seeds(folder: Path) -> set[int]:
    return {case.provenance["seed"] for case in ShardReader(folder)}


@pytest.fixture
def own_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A template file of the user's in the present folder."""
    monkeypatch.chdir(tmp_path)
    ours = Path(templates.__file__).parent / "data" / "templates-torso.yaml"
    return Path(shutil.copy(ours, tmp_path / "mine.yaml"))


def test_blocks_that_wait_from_another_recipe_are_not_published(tmp_path: Path) -> None:
    """`rm DIR/*` leaves the hidden work folder."""
    out = tmp_path / "out"
    fill(out, config_of(seed=1), GENERATOR, num_blocks=1)
    (out / "shard-000000.tar").unlink(missing_ok=True)
    for path in out.iterdir():
        if path.name != WORK:
            path.unlink()
    assert list((out / WORK).glob("block-*.tar"))
    fill(out, config_of(seed=2), GENERATOR)
    assert seeds(out) == {2}
    assert list(problems(out)) == []


@pytest.mark.parametrize("last", ["run.json", "block-00000002.tar"])
def test_overwriting_that_is_killed_half_way_can_be_taken_up_again(tmp_path: Path, monkeypatch, last: str) -> None:
    fill(tmp_path, config_of(seed=1, n=16), GENERATOR, num_blocks=3)
    remove = LocalFolder.remove

    def killed(self: LocalFolder, name: str) -> None:
        remove(self, name)
        if name.endswith(last):
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalFolder, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        ShardFolder(tmp_path, config_of(seed=2), overwrite=True)
    monkeypatch.undo()
    for _ in make_shards(tmp_path, config_of(seed=2), lambda: GENERATOR, overwrite=True):
        pass
    assert seeds(tmp_path) == {2}


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b'{"format": 1, "config": {"recipe": "seed"}}'])
def test_a_folder_whose_configuration_is_damaged_says_what_helps_and_that_helps(cheap_model, capsys, damage) -> None:
    words = ["--n", "2", "--out", "a"]
    assert shard(words) == 0
    before = contents(Path("a"))
    Path("a/run.json").write_bytes(damage)
    hurt = contents(Path("a"))
    capsys.readouterr()
    for refused in (["verify", "a"], ["verify", "a", "--repair"], ["shard", *words]):
        assert main(refused) == 1
        said = capsys.readouterr().err
        assert "run.json" in said
        assert "put it back from a backup, or make the folder anew with guidegen-shard and --overwrite" in said
        assert "verify --repair" not in said
    assert contents(Path("a")) == hurt
    assert shard([*words, "--overwrite"]) == 0
    assert contents(Path("a")) == before


OTHER = {"templates": "head-neck", "reports": ("CT chest.",), "abstractor": "x", "device": "cuda", "compiled": True}


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe) if f.name not in ("abstractor", "readings")])
def test_configurations_differ_just_where_their_digests_do(name: str) -> None:
    one = config_of()
    value = getattr(one.recipe, name)
    other = OTHER.get(name, not value if isinstance(value, bool) else 5 if value is None else value * 2 or "other")
    other = other or 7
    changed = replace(one, recipe=replace(one.recipe, **{name: other}))
    assert changed.recipe.sha256 != one.recipe.sha256
    assert changed.differences(one)
    assert not one.recipe.made(changed.recipe.sha256)


def test_a_template_file_is_the_same_under_another_path(own_templates: Path, tmp_path: Path) -> None:
    near, far = config_of(shard_size=4, templates="mine.yaml"), config_of(shard_size=4, templates=str(own_templates))
    assert near.recipe.sha256 == far.recipe.sha256
    assert near.differences(far) == []
    fill(tmp_path / "out", near, GENERATOR, num_blocks=1)
    fill(tmp_path / "out", far, GENERATOR)
    assert list(problems(tmp_path / "out")) == []
    before = contents(tmp_path / "out")
    fill(tmp_path / "out", far, GENERATOR)
    assert contents(tmp_path / "out") == before
    own_templates.write_text(own_templates.read_text() + "# another\n")
    assert config_of(shard_size=4, templates="mine.yaml").differences(near)
    with pytest.raises(ShardError, match="not the one that these cases were worded by"):
        ReportSource(near.recipe, GENERATOR.anatomy)


def test_a_folder_whose_recipe_counted_the_path_is_read_and_goes_on(own_templates: Path, tmp_path, monkeypatch) -> None:
    config, out = config_of(shard_size=4, templates="mine.yaml"), tmp_path / "out"

    def as_it_was(recipe: Recipe) -> str:
        return hashlib.sha256(to_json(asdict(recipe)).encode()).hexdigest()

    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "sha256", property(as_it_was))
        fill(out, config, GENERATOR)
    assert json.loads((out / "index.json").read_text())["recipe_sha256"] != config.recipe.sha256
    assert list(problems(out)) == []
    (out / "index.json").unlink()
    trace = tmp_path / "trace"
    fill(out, config, replace(GENERATOR, trace=trace))
    assert not trace.exists()
    assert list(problems(out)) == []


def test_repair_without_the_templates_removes_nothing(own_templates: Path, tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "out", config_of(templates="mine.yaml"), GENERATOR)
    tar = tmp_path / "out" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    found, before = list(problems(tmp_path / "out")), contents(tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ReportError, match=r"mine\.yaml"):
        next(repair(LocalFolder(tmp_path / "out"), found, lambda: GENERATOR))
    assert contents(tmp_path / "out") == before
