"""Loading what makes the cases."""

import subprocess
import sys
from pathlib import Path

from tiny import tiny_pipeline

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
