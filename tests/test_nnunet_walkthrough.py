"""The README's walk-through, copied out of it and pasted into a shell, in a small size."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest
from nnunet_support.toy_data import write_real, write_shards
from nnunet_support.world import environment

pytest.importorskip("nnunetv2")

TESTS = Path(__file__).parent
README = TESTS.parent / "plugins" / "nnunet" / "README.md"
SUPPORT = TESTS / "nnunet_support"
# What would take hours is made small, everything else is the command itself.
SMALL = {
    "pip": 'test "$*" = "install .[nnunet]"',
    "guidegen-shard": 'test "$1 $2 $3 $4" = "--n 200 --out shards" && cp -r "$TOY_SHARDS" shards',
    "nnUNetv2_train": (
        f"PYTHONPATH=$PYTHONPATH:{TESTS} {sys.executable} -c 'import os, pathlib; "
        "from nnunet_support.tiny_plans import write_tiny_plans; "
        'write_tiny_plans(pathlib.Path(os.environ["nnUNet_preprocessed"]) / "Dataset917_AbdomenMixed", "nnUNetPlans")\''
        f' && {sys.executable} {SUPPORT / "short_training.py"} "$@" -device cpu'
    ),
    "nnUNetv2_predict": (
        f"{sys.executable} -c 'from nnunetv2.inference.predict_from_raw_data import predict_entry_point as p; p()' "
        '"$@" -device cpu -npp 1 -nps 1 --disable_tta'
    ),
    "guidegen": f'{sys.executable} -m guidegen_data.cli.main "$@"',
}


def commands() -> str:
    return re.findall(r"<!-- walk-through.*?-->\n```bash\n(.*?)```", README.read_text(), re.DOTALL)[0]


def test_the_walk_through_leads_from_a_raw_data_set_to_predictions_of_a_mixed_model(tmp_path) -> None:
    for name in ("raw", "preprocessed", "results", "bin"):
        (tmp_path / name).mkdir()
    raw = tmp_path / "raw" / "Dataset017_Abdomen"
    write_real(raw)
    (raw / "imagesTs").mkdir()
    shutil.copy(raw / "imagesTr" / "patient_0_0000.nii.gz", raw / "imagesTs" / "new_0000.nii.gz")
    write_shards(tmp_path / "toy")
    for name, line in SMALL.items():
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
    with environment(tmp_path):
        changes = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "TOY_SHARDS": str(tmp_path / "toy"),
            "TEST_EPOCHS": "1",
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands()],
            cwd=tmp_path,
            env=os.environ | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert done.returncode == 0, done.stdout
    assert "5 real and 4 synthetic cases" in done.stdout
    fraction = float(re.findall(r"GUIDEGEN_NNUNET_FRACTION=([0-9.]+)", commands())[0])
    assert f"GuideGen: {fraction:.4f} of 24 training patches were synthetic" in done.stdout
    assert nib.load(tmp_path / "predictions" / "new.nii.gz").shape == (36, 34, 32)
