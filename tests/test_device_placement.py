"""Networks and what they are given are on one device: shown without a GPU, on one that refuses what a GPU refuses."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
REFUSALS = """
import torch
from pretend_device import DEVICE, pretended
with pretended():
    there, here = torch.ones(3, device=DEVICE), torch.ones(3)
    assert (there + there).device == DEVICE and (there + there).cpu().tolist() == [2, 2, 2]
    assert torch.equal(torch.nn.Linear(3, 1).to(DEVICE).weight.cpu().isfinite().all(), torch.tensor(True))
    for mixed in (
        lambda: there + here,
        lambda: torch.nn.Linear(3, 1)(there),
        lambda: torch.cat([there, here]),
        lambda: torch.randn(3, device=DEVICE, generator=torch.Generator()),
        lambda: there.double(),
    ):
        try:
            mixed()
        except (RuntimeError, TypeError):
            continue
        raise SystemExit("two devices in one operation, or float64, and nothing was said")
"""


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    done = _run("-c", REFUSALS)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_stage_trains_and_generates_on_a_device_of_its_own(tmp_path: Path) -> None:
    done = _run(str(TESTS / "pretend_device.py"), str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.endswith("done\n")
