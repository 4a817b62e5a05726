"""Where nnU-Net finds the trainer, and whether its search for trainers will get that far."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "nnUNet_extTrainer"


def trainers_folder() -> Path:
    return Path(__file__).resolve().parent / "trainers"


def setting() -> str:
    """The shell line that makes nnU-Net search our folder besides those it searches already."""
    return f'export {VARIABLE}="{trainers_folder()}${{{VARIABLE}:+{os.pathsep}${VARIABLE}}}"'


def append_setting(file: Path) -> bool:
    """True when the line was appended to a shell file, False when it stands there already."""
    line = setting()
    before = file.read_text() if file.is_file() else ""
    if line in before.splitlines():
        return False
    with file.open("a") as handle:
        handle.write(("" if not before or before.endswith("\n") else "\n") + line + "\n")
    return True


def torchvision_problem() -> str | None:
    """A sentence when torchvision cannot be imported, as then nnU-Net's search for any trainer but its own fails."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = f"torchvision {version('torchvision')}"
        except PackageNotFoundError:
            found = "no torchvision"
        reason = " ".join(str(error).split())
        return (
            f"nnU-Net imports torchvision when it searches for a trainer and will fail: expected the build of "
            f"torchvision that belongs to torch {version('torch')}, got {found} ({reason}); install it, on a machine "
            f"without a GPU with `pip install --force-reinstall --no-deps torchvision --index-url "
            f"https://download.pytorch.org/whl/cpu`."
        )
    return None
