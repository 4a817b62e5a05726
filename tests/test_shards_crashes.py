"""A short version of benchmarks/crashes.py: runs killed at random moments end in the same bytes."""

import sys
from pathlib import Path

import pytest

from benchmarks.crashes import Harness

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes to kill in /proc")


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    scratch: Path = tmp_path_factory.mktemp("crashes")
    return Harness(
        scratch, "", seed=5, seconds={f"{mode} {n}": 1.5 for mode in ("worker", "driver") for n in (1, 2, 3)}
    )


@pytest.mark.parametrize(("number", "mode"), [(0, "worker"), (1, "driver"), (2, "failing write")])
def test_a_run_disturbed_at_a_random_moment_is_completed_to_the_same_bytes(
    harness: Harness, number: int, mode: str
) -> None:
    outcome = harness.run(number, mode)
    assert outcome.wrong == [], outcome.told


def test_the_harness_notices_what_is_lost(harness: Harness, monkeypatch) -> None:
    monkeypatch.setattr(harness, "_reference", {})
    folder = harness._scratch / "reference"
    wrong, done = [], set()
    try:
        wrong, done = harness._left_behind(folder)
    except KeyError:
        wrong = ["no such shard in the reference"]
    assert wrong
    assert not done
