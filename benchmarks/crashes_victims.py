"""Who can be killed: the processes of a run, by /proc. Part of benchmarks/crashes.py."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def workers_of(driver: int) -> list[int]:
    """Worker processes of a driver that run now."""
    return [pid for pid in _processes() if _parent(pid) == driver and "spawn_main" in _command(pid)]


def actors_in(trace: Path) -> list[int]:
    """Ray actors that have begun a block and run now."""
    told = {int(line.split()[0]) for line in trace.read_text().splitlines()} if trace.exists() else set()
    return [pid for pid in _processes() if pid in told and _command(pid).startswith("ray::")]


def _processes() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""
