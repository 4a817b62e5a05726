"""The benchmark's arm of three times as many generated cases: those of the other arms, and others of another seed."""

import numpy as np
import pytest
from test_downstream_cut import neck

from benchmarks import downstream_arms
from benchmarks.downstream_arms import Sizes, Sources, complete_reports
from benchmarks.nnunet_route import Commands, write_cases
from guidegen_data import ShardReader


@pytest.fixture
def asked(monkeypatch) -> list[dict[str, list[str]]]:
    """What guidegen-shard was told, by option; instead of generating it writes necks whose texture tells the seed."""
    told: list[dict[str, list[str]]] = []

    def shard(self, name, command, *words) -> None:
        options: dict[str, list[str]] = {}
        for option, value in zip(words[::2], words[1::2], strict=True):
            options.setdefault(option, []).append(str(value))
        told.append(options)
        number = int(options["--n"][0])
        texture = 100 * int(options["--seed"][0])
        write_cases(lambda n: neck(0, 40, (18, 22), texture + n), number, words[words.index("--out") + 1])

    monkeypatch.setattr(Commands, "guidegen", shard)
    monkeypatch.setattr(Sources, "fingerprint", lambda self: "one")
    return told


def test_three_times_the_cases_begin_with_those_of_the_other_arms(tmp_path, asked) -> None:
    sources = Sources(tmp_path, tmp_path / "real", [], tmp_path, Sizes(num_cases=2))
    more = ShardReader(sources.shards("guidegen-more"))
    drawn = [case.ct_hu for case in (more[number] for number in range(len(more)))]
    expected = [neck(0, 40, (18, 22), texture).ct_hu for texture in (0, 1, 100, 101, 102, 103)]
    assert len(drawn) == 6
    assert all(np.array_equal(a, b) for a, b in zip(drawn, expected, strict=True))
    assert len(ShardReader(tmp_path / "guidegen")) == 2  # of the arms with fewer, as they are


def test_the_other_seed_has_reports_of_its_own(tmp_path, asked) -> None:
    sources = Sources(tmp_path, tmp_path / "real", [], tmp_path, Sizes(num_cases=2))
    for kind in ("guidegen", "guidegen-rest"):
        sources.shards(kind)
    first, rest = asked
    assert (first["--seed"], rest["--seed"]) == (["0"], ["1"])
    assert first["--report"] == complete_reports(2)
    assert rest["--report"] == complete_reports(4, seed=1)
    assert not set(first["--report"]) & set(rest["--report"])


def test_of_both_arms_the_same_share_of_patches_is_drawn() -> None:
    fewer, more = (downstream_arms.ARMS[name] for name in ("guidegen-falling", "guidegen-more-falling"))
    assert (fewer.fraction, fewer.falling) == (more.fraction, more.falling)
