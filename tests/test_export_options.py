"""Numbers that `guidegen export` writes into a model are ones that a case can be made with."""

from pathlib import Path

import pytest

from guidegen_data.cli.main import main


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--steps-mask", "5000"], "takes 1 to 1000 steps, got 5000"),
        (["--last-timestep", "1500"], "do not fit between the times 1000 and 1500"),
        (["--last-timestep", "995"], "do not fit between the times 1000 and 995"),
        (["--delay-ct", "0"], "--delay-ct is a number of steps from 1"),
        (["--noise-correlation", "nan"], "--noise-correlation is from 0 to below 1"),
        (["--detail", "run", "--steps-detail", "5000"], "takes 1 to 1000 steps, got 5000"),
        (["--steps-detail", "3"], "--steps-detail says something of --detail, and there is none"),
        (["--read-percentile", "50"], "--read-percentile says something of --second-reader, and there is none"),
        (["--detail", "run", "--read-percentile", "50"], "--read-percentile says something of --second-reader"),
    ],
)
@pytest.mark.parametrize("slices", ["slices", "torso"])
def test_what_no_case_can_be_made_with_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch, capsys, options, told, slices
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "masks", slices, "out", *options]) == 1
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    ["--steps-mask=0", "--steps-mask=x", "--steps-ct=-1", "--last-timestep=-1", "--guidance=nan", "--size-strength=x"],
)
def test_what_is_no_such_number_is_wrong_usage(option, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(["export", "masks", "slices", "out", option])
    assert left.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err
