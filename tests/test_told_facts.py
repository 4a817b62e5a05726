"""What a data set tells of a patient beside the report is kept, and a report is read where it says more."""

import json

import pytest
from little_patients import ANATOMY, write_nifti
from test_prepare import command, notes

from guidegen_data.cli.main import main

REGIONS = "regions: [whole, upper]\nregion_organs: {whole: [liver, spleen], upper: [liver]}\n"


@pytest.fixture
def source(tmp_path):
    """Four patients and a table of two regions, the smaller of which does not show the spleen."""
    write_nifti(tmp_path / "src", 4)
    (tmp_path / "src" / "anatomy.yaml").write_text(ANATOMY.replace("two-organs", "two-regions") + REGIONS)
    return tmp_path / "src"


def findings(source, out, rows: str, reports: dict[str, str]) -> dict[str, dict]:
    """The prepared patients' findings; of one who was refused, why."""
    (source / "findings.csv").write_text("name,region,phase,sex,age,habitus\n" + rows)
    for name, report in reports.items():
        (source / f"{name}.txt").write_text(report)
    assert main(command("nifti", source, out)) == 0
    return {name: note.get("findings", {"refused": note["refused"]}) for name, note in notes(out).items()}


def test_where_a_report_is_silent_the_table_of_findings_is_heard(source, tmp_path) -> None:
    rows = "p0,whole,arterial,F,4,large\np1,whole,arterial,F,43,large\n"
    silent = "The spleen is enlarged. No focal lesion."
    speaking = "CT in the portal venous phase of a 67-year-old man of slim build. The spleen is enlarged."
    told = findings(source, tmp_path / "out", rows, {"p0": silent, "p1": speaking})
    said = {name: [told[name][k] for k in ("phase", "sex", "age_decade", "habitus", "organs")] for name in ("p0", "p1")}
    assert said["p0"] == ["arterial", "female", 0, "large", {"spleen": "enlarged"}]
    assert said["p1"] == ["portal venous", "male", 60, "slim", {"spleen": "enlarged"}]


def test_a_told_region_wins_and_what_lies_outside_of_it_is_not_asked_for(source, tmp_path) -> None:
    report = "30 mm mass in the liver. 40 mm mass in the spleen."
    told = findings(source, tmp_path / "out", "p0,upper,,,,\np1,,,,,\n", {"p0": report, "p1": report})
    assert (told["p0"]["region"], [x["organ"] for x in told["p0"]["lesions"]]) == ("upper", ["liver"])
    assert (told["p1"]["region"], sorted(x["organ"] for x in told["p1"]["lesions"])) == ("whole", ["liver", "spleen"])


def test_a_region_that_the_table_does_not_have_is_refused_and_the_others_go_on(source, tmp_path) -> None:
    told = findings(source, tmp_path / "out", "p0,thorax,,,,\np1,upper,,,,\n", {})
    refused = json.loads((tmp_path / "out" / "refused.jsonl").read_text())
    assert refused["name"] == "p0"
    assert refused["why"] == (
        "region must be one that the two-regions table has, got 'thorax'; name one of whole, upper."
    )
    assert {name: f["region"] for name, f in told.items() if "region" in f} == {
        "p1": "upper", "p2": "whole", "p3": "whole",
    }  # fmt: skip
