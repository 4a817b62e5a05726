"""Results files tell how they were made, and nothing of the machine's folders."""

import json
import shlex
import sys

import pytest

from benchmarks import record


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--num", "--num"),
        ("torso", "torso"),
        ("/home/someone/data/prepared", "PREPARED"),
        ("--work=/tmp/x/work", "--work=WORK"),
        ("masks=/a/first,/a/second", "masks=FIRST,SECOND"),
        ("runs/masks", "runs/masks"),
        ("/runs/model-k{k}-seed{seed}", "MODEL-K{k}-SEED{seed}"),
    ],
)
def test_absolute_paths_are_told_by_their_name(word, expected) -> None:
    assert record.told(word) == expected


def test_a_record_holds_command_seed_and_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/thing.py", "/data/cases", "--num", "3"])
    held = json.loads(record.save("thing", {"a": 1}, seed=4).read_text())
    assert held["command"] == "python -m benchmarks.thing CASES --num 3"
    assert (held["seed"], held["figures"]) == (4, {"a": 1})
    assert held["machine"]["cores"] >= 1


def test_the_command_parses_into_the_words_that_were_given(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    words = ["data", "--parts", "", "class fractions", "--model", "m-{k}"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/ablations.py", *words])
    command = json.loads(record.save("some", {}).read_text())["command"]
    assert shlex.split(command) == ["python", "-m", "benchmarks.ablations", *words]
