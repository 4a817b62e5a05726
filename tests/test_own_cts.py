"""The README's way from raw CTs to a model and shards of one's own, copied out of it and pasted into a shell."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from little_patients import write_openkbp

from guidegen_data.anatomy_files import read_anatomy
from guidegen_data.dataset import GuideGenDataset

README = Path(__file__).parent.parent / "README.md"
# Fewer steps and cases than the README's, everything else is the command itself.
COMMANDS = {
    "guidegen": f'test "$1" != train || set -- "$@" --num-steps 4\n{sys.executable} -m guidegen_data.cli.main "$@"',
    "guidegen-shard": f'{sys.executable} -m guidegen_data.cli.main shard "$@" --steps-mask 2 --n 3',
}


def block() -> str:
    (commands,) = re.findall(
        r"<!-- walk-through: tests/test_own_cts.py.*?-->\n```bash\n(.*?)```", README.read_text(), re.S
    )
    return commands


@pytest.mark.timeout(900)
def test_three_raw_patients_become_a_model_and_its_shards(tmp_path) -> None:
    write_openkbp(tmp_path / "provided-data", 3)
    for name, line in COMMANDS.items():
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block()],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train: 3 patients' cases, 3 files" in done.stdout
    assert "3 cases in 3 shards, all well" in done.stdout
    assert (tmp_path / "my_shards" / "preview.png").stat().st_size > 10_000
    card = (tmp_path / "my_model" / "README.md").read_text()
    assert "provided-data (openkbp layout): 3 patients trained on, 0 kept apart" in card
    assert len(list((tmp_path / "my_shards").glob("*.tar"))) == 3
    cases = GuideGenDataset(tmp_path / "my_shards")
    assert len(cases) == 3
    anatomy = read_anatomy(tmp_path / "my_model" / "anatomy.yaml")
    # The lesion class of this table is not its last one.
    network = json.loads((tmp_path / "my_model" / "mask_sampler" / "config.json").read_text())
    assert network["lesion_class"] == anatomy.lesion_id == anatomy.num_classes - 3
    assert tuple(cases[2]["image"].shape) == tuple(cases[2]["label"].shape) == (1, *anatomy.shape)
    assert int(cases[2]["label"].max()) < anatomy.num_classes
