"""nnU-Net's real commands as subprocesses."""

import os
import subprocess
import sys
from pathlib import Path

from nnunet_support.tiny_plans import NAME

SUPPORT = Path(__file__).parent
_ENTRIES = {
    "nnUNetv2_plan_and_preprocess": (
        "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints",
        "plan_and_preprocess_entry",
    ),
    "nnUNetv2_predict": ("nnunetv2.inference.predict_from_raw_data", "predict_entry_point"),
    "nnUNetv2_evaluate_folder": ("nnunetv2.evaluation.evaluate_predictions", "evaluate_folder_entry_point"),
}


def with_plugin(**changes: object) -> dict[str, str]:
    """The environment in which nnU-Net finds our trainers."""
    from guidegen_nnunet.install import trainers_folder

    return os.environ | {"nnUNet_extTrainer": str(trainers_folder())} | {k: str(v) for k, v in changes.items()}


def start(arguments: list[object], environment: dict[str, str]) -> subprocess.Popen:
    """The process, with its output kept."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_training(trainer: str, configuration: str, *extra: object, dataset: int = 902, **changes: object):
    """nnUNetv2_train, shortened, with the tiny network, on fold 0."""
    arguments = [dataset, configuration, 0, "-p", NAME, "-tr", trainer, "-device", "cpu", *extra]
    return start([SUPPORT / "short_training.py", *arguments], with_plugin(**changes))


def train(trainer: str, configuration: str, *extra: object, dataset: int = 902, **changes: object) -> tuple[int, str]:
    """(exit status, output) of it."""
    process = start_training(trainer, configuration, *extra, dataset=dataset, **changes)
    output = process.communicate()[0]
    return process.returncode, output


def nnunet(command: str, *arguments: object, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """(exit status, output) of another of nnU-Net's commands."""
    module, function = _ENTRIES[command]
    process = start(["-c", f"from {module} import {function}; {function}()", *arguments], environment or with_plugin())
    output = process.communicate()[0]
    return process.returncode, output


def fold_folder(world: Path, trainer: str, configuration: str, dataset: str = "Dataset902_Mix") -> Path:
    """Where a training leaves its results."""
    return world / "results" / dataset / f"{trainer}__{NAME}__{configuration}" / "fold_0"


def log_of(folder: Path) -> str:
    """All logs of a fold, in order."""
    return "".join(p.read_text() for p in sorted(folder.glob("training_log_*.txt")))
