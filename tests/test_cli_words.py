"""What a clumsy user types: numbers that are none, a file for a report, more cases than the folder was begun with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guidegen_data.cli.main import main, shard

pytestmark = pytest.mark.usefixtures("cheap_model")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shard", "--n", "two"], "--n: must be a whole number, got 'two'"),
        (["shard", "--n", "0"], "--n: must be 1 or more, got 0"),
        (["shard", "--n", "1", "--seed", "-1"], "--seed: must be 0 or more, got -1"),
        (["shard", "--n", "1", "--guidance", "nan"], "--guidance: must be a number, got 'nan'"),
        (["shard", "--n", "1", "--guidance", "much"], "--guidance: must be a number, got 'much'"),
        (["preview", "nowhere", "--num", "0"], "--num: must be 1 or more, got 0"),
    ],
)
def test_numbers_that_are_none_are_refused_by_their_option(words: list[str], told: str, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert told in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_the_name_of_a_file_is_no_report(capsys) -> None:
    Path("report.txt").write_text("CT abdomen. 30 mm mass in the right lobe of the liver.")
    assert shard(["--n", "1", "--report", "report.txt"]) == 1
    assert '--report takes the words of a report, and report.txt is a file; give "$(cat report.txt)".' in (
        capsys.readouterr().err
    )
    assert not Path("guidegen-shard").exists()


def test_a_report_too_long_for_a_file_name_is_a_report(capsys) -> None:
    words = "CT abdomen. 30 mm mass in the right lobe of the liver. " + "\N{GREEK SMALL LETTER ALPHA}" * 190
    assert len(words) < 256 < len(words.encode())
    assert shard(["--n", "1", "--report", words]) == 0


def test_a_dry_run_tells_of_a_folder_that_holds_something_else_and_goes_on(capsys) -> None:
    assert shard(["--n", "1"]) == 0
    kept = sorted(Path("guidegen-shard").iterdir())
    capsys.readouterr()
    assert shard(["--n", "5", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "the run would be refused: guidegen-shard holds shards of another configuration (n 1, not 5)" in out
    assert "for 5 cases" in out
    assert err == "measuring how long a case takes here ...\n"
    assert sorted(Path("guidegen-shard").iterdir()) == kept
    assert shard(["--n", "5"]) == 1


@pytest.mark.parametrize(
    ("given", "count"), [({}, "10000"), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "9"}, "9")]
)
def test_threads_that_wait_leave_their_core_unless_the_user_wants_it_otherwise(given: dict, count: str) -> None:
    """Set before torch is loaded: afterwards it would be too late."""
    told = (
        "import os, sys; from guidegen_data.cli.main import main; assert 'torch' not in sys.modules\n"
        "main(['verify', 'nowhere']); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    plain = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", told], env=plain | given, capture_output=True, text=True, check=True)
    assert done.stdout == f"{count}\n"


def test_where_there_is_no_bar_a_line_is_written_now_and_then(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidegen_data.cli.shard._LOG_EVERY_S", 0.0)
    assert shard(["--n", "8", "--no-qc"]) == 0
    assert "4 of 8 cases, rejects 0 (0%)\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--anatomy", "head-neck"], "--anatomy cannot go with --num"),
        (["--validation-share", "0.2", "--augment", "2"], "--augment, --validation-share cannot go with --num"),
        (["--map", "a=b"], "--map cannot go with --num"),
        (["--workers", "2"], "--workers cannot go with --num"),
    ],
)
def test_what_deformed_cases_have_no_use_for_is_not_passed_over(option: list[str], told: str, capsys) -> None:
    assert main(["prepare", "nifti", ".", "out", "--num", "3", *option]) == 1
    assert told in capsys.readouterr().err
    assert not Path("out").exists()
    assert main(["prepare", "nifti", ".", "out", "--num", "3", "--anatomy", "torso"]) == 1
    assert "cannot go with" not in capsys.readouterr().err  # the folder holds no volumes
