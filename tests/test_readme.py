"""The tables of README and FIGURES.md are what the committed results say."""

import json
import re
import shutil

from benchmarks.record import IMAGE_PARTS, LABEL_MAP_PARTS, RESULTS, weights
from benchmarks.sections import IN_README, SECTIONS
from benchmarks.tables import FIGURES, README, draw_curves, of_now, rewritten


def test_the_tables_are_drawn_from_the_committed_results() -> None:
    for path, text in rewritten().items():
        assert path.read_text() == text, f"{path.name} is stale: python -m benchmarks.tables"


def test_every_result_that_has_a_section_is_told_in_figures_and_a_choice_in_the_readme() -> None:
    named = [name for results in SECTIONS.values() for name in results]
    assert len(set(named)) == len(named)
    assert set(IN_README) < set(named)
    held = [name for name in named if (RESULTS / f"{name}.json").exists()]
    commands = {name: json.loads((RESULTS / f"{name}.json").read_text())["command"] for name in held}
    figures, readme = FIGURES.read_text(), README.read_text()
    assert all(f"`{command}`" in figures for command in commands.values())
    assert all(f"`{commands[name]}`" in readme for name in IN_README)


def test_figures_are_of_earlier_weights_once_a_part_that_made_them_is_gone() -> None:
    maps, images = weights("torso", LABEL_MAP_PARTS), weights("head-neck", IMAGE_PARTS)
    gone = {"model_sha256": "of a model with other slices"}
    assert of_now(maps)
    assert of_now(maps | gone)
    assert of_now({"model_sha256": maps["model_sha256"]})
    assert not of_now(gone)
    assert not of_now(maps | {"parts_sha256": maps["parts_sha256"] | {"detail_network": "another"}})
    assert not of_now({"parts_sha256": maps["parts_sha256"] | images["parts_sha256"]})  # parts of two models
    assert images["parts_sha256"]["tissue_network"] == ""  # it has none


def test_figures_of_the_donors_generator_are_not_called_earlier_ones_of_the_package() -> None:
    told = [line for line in FIGURES.read_text().splitlines() if line.startswith("`python") and "DONORS" in line]
    assert any("benchmarks.airway" in line for line in told)
    assert not any("earlier weights" in line for line in told)


def test_the_readme_holds_one_test_command_and_one_that_generates() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(), re.DOTALL)
    assert sum("guidegen-shard --n 4" in block and "pip install" in block for block in blocks) == 1
    assert sum("pytest" in block and "pip install" in block for block in blocks) == 1


def test_curves_are_drawn_from_the_committed_results_alone(tmp_path) -> None:
    for name in ("downstream_donor_2400", "downstream_found", "downstream_scans", "head_neck_training", "posterior"):
        shutil.copy(RESULTS / f"{name}.json", tmp_path)
    drawn = draw_curves(tmp_path)
    curves = ("downstream_donor_2400", "downstream_scans", "head_neck_training")
    assert [path.stem for path in drawn] == list(curves)
    assert all(path.stat().st_size > 10_000 for path in drawn)
