"""Loading what makes the cases."""

import subprocess
import sys
from pathlib import Path

import pytest
from ellipsoids import EllipsoidGenerator
from tiny import tiny_pipeline

from guidegen_data.errors import ModelError, ShardError
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.shards.generators import prepare
from guidegen_data.shards.plan import make_recipe

_LOAD = """
import sys
from guidegen_data.shards.generators import load_generator
load_generator(sys.argv[1], "cpu")
from diffusers.utils import logging
print(logging.get_verbosity(), logging.is_progress_bar_enabled())
"""


def test_loading_a_model_says_nothing_and_leaves_diffusers_as_talkative_as_it_was(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path, safe_serialization=True)
    done = subprocess.run([sys.executable, "-c", _LOAD, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == "30 True\n"


@pytest.mark.parametrize("compiled", [False, True])
def test_networks_are_compiled_where_that_is_asked_for(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, asked = tiny_pipeline(), []
    monkeypatch.setattr(type(pipe.slice_generator), "compile", lambda network, **how: asked.append(how))
    monkeypatch.setattr("shutil.which", lambda name: name)
    recipe = make_recipe(pipe, compiled=compiled)
    prepare(recipe, lambda: pipe, num_threads=1)
    # One size of batch has code of its own: with code for any size a case would depend on what came before it.
    assert asked == ([{"dynamic": False}] if compiled else [])
    assert recipe.compiled == compiled


def test_what_cannot_be_compiled_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ModelError, match="compiler"):
        tiny_pipeline().compile()
    with pytest.raises(ShardError, match="no networks"):
        make_recipe(EllipsoidGenerator(), compiled=True)


def test_cases_of_compiled_networks_are_other_cases() -> None:
    pipe = tiny_pipeline()
    assert isinstance(pipe, GuideGenPipeline)
    assert make_recipe(pipe).sha256 != make_recipe(pipe, compiled=True).sha256


def test_more_steps_than_the_model_can_take_are_refused_before_a_folder_is_begun() -> None:
    pipe = tiny_pipeline()
    assert make_recipe(pipe, num_steps_mask=1000).num_steps_mask == 1000
    with pytest.raises(ShardError, match="takes 1000 steps of the mask at the most, got 5000; give fewer"):
        make_recipe(pipe, num_steps_mask=5000)
