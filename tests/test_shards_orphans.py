"""A run that is killed leaves no worker that goes on computing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")

_RUN = '''
import os, sys, time
from pathlib import Path

from ellipsoids import EllipsoidGenerator

from guidegen_data.shards.manifest import RunConfig
from guidegen_data.shards.plan import make_recipe
from guidegen_data.shards.workers import make_shards

PIDS = Path(sys.argv[1])


class Slow(EllipsoidGenerator):
    """Notes who it is and needs a minute for a block."""

    def generate(self, *lists, **settings):
        (PIDS / str(os.getpid())).touch()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.05)
        return super().generate(*lists, **settings)


if __name__ == "__main__":
    config = RunConfig(make_recipe(EllipsoidGenerator()), 8, "ellipsoids", 4)
    for _ in make_shards(PIDS.parent / "shards", config, Slow, num_workers=2):
        pass
'''


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_workers_end_within_their_block_with_the_run(tmp_path, how) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    (tmp_path / "slow_run.py").write_text(_RUN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])}
    run = subprocess.Popen([sys.executable, str(tmp_path / "slow_run.py"), str(pids)], env=environment)
    try:
        assert until(lambda: len(list(pids.iterdir())) == 2, 90)
        workers = [int(p.name) for p in pids.iterdir()]
        assert run.pid not in workers
        run.send_signal(how)
        run.wait(20)
        assert until(lambda: not any(map(alive, workers)), 15)
    finally:
        run.kill()
        run.wait()
        for pid in (int(p.name) for p in pids.iterdir()):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
