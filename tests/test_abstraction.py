"""Abstraction: free report text read into Findings, with a record of what was used and what was not."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from argparse import ArgumentParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guidegen_data.anatomy import HEAD_NECK, TORSO, Anatomy, FindingOrgan, OrganClass
from guidegen_data.cli import abstract
from guidegen_data.errors import FindingsError, GuideGenError, ReportError
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.lexicon import lexicon_for
from guidegen_data.reports.measures import find_measures
from guidegen_data.reports.sections import split_sentences

LUNG_R, LUNG_L, LIVER_R, LIVER_L = (
    "right lung/upper lobe",
    "left lung/lower lobe",
    "liver/right lobe",
    "liver/left lobe",
)

# Text -> the lesions as 'organ/site mm [attenuation]' and the organ statuses as 'organ status', in that order.
SENTENCES: list[tuple[str, set[str]]] = [
    # negation
    ("No focal liver lesion, 24 mm mass in the sigmoid colon.", {"colon/sigmoid 24"}),
    ("No mass, nodule or lymphadenopathy in the liver, spleen, or kidneys.", set()),
    ("The liver is enlarged without focal lesion.", {"liver enlarged"}),
    ("No hepatomegaly. Splenomegaly.", {"spleen enlarged"}),
    ("No splenomegaly but the liver is enlarged.", {"liver enlarged"}),
    ("The spleen is not enlarged.", set()),
    ("The liver is neither enlarged nor atrophic.", set()),
    ("No change in the 24 mm mass in the sigmoid colon.", {"colon/sigmoid 24"}),
    ("The liver mass is no longer seen.", set()),
    ("Patient denies pain. 3 cm gastric mass.", {"stomach/ 30"}),
    ("CT chest. Focal lesions are absent.", set()),
    ("No evidence of cholecystectomy. 2 cm mass in the rectum.", {"colon/rectum 20"}),
    ("No liver mass and the spleen is enlarged.", {"spleen enlarged"}),
    ("There is a 2 cm mass in the liver, and no mass in the spleen.", {"liver/right lobe 20"}),
    # units, ranges, dimensions
    ("2.4 x 1.8 cm mass in the sigmoid colon.", {"colon/sigmoid 24"}),
    ("18 x 24 x 21 mm mass in the sigmoid colon.", {"colon/sigmoid 24"}),
    ("2.4 cm × 1.8 cm mass in the rectum.", {"colon/rectum 24"}),
    ("2,4 cm mass in the sigmoid colon.", {"colon/sigmoid 24"}),
    ("2-3 cm mass in the pancreatic tail.", {"pancreas/tail 25"}),
    ("A mass of between 2 and 3 cm in the cecum.", {"colon/ascending 25"}),
    ("A 24-mm mass in the sigmoid colon.", {"colon/sigmoid 24"}),
    ("24mm mass in sigmoid.", {"colon/sigmoid 24"}),
    ("Sigmoid mass has increased from 18 mm to 24 mm.", {"colon/sigmoid 24"}),
    ("Sigmoid mass measures 24 mm, previously 18 mm.", {"colon/sigmoid 24"}),
    ("Mass in the rectum measuring 30 mm, 5 cm from the anal verge.", {"colon/rectum 30"}),
    ("3 mm axial sections. Rectal mass, 4 cm.", {"colon/rectum 40"}),
    ("A 1 cm mass in liver segment 7.", {"liver/right lobe 10"}),
    # places and sides
    ("Mass in the head of the pancreas measuring 3.2 cm.", {"pancreas/head 32"}),
    ("12 mm nodule in the RUL.", {"right lung/upper lobe 12"}),
    ("LLL nodule, 9 mm.", {"left lung/lower lobe 9"}),
    ("9 mm nodule, upper lobe of the left lung.", {"left lung/upper lobe 9"}),
    ("2 cm lesion in segment VII.", {"liver/right lobe 20"}),
    ("2 cm lesion in hepatic segment III.", {"liver/left lobe 20"}),
    ("3 cm mass in LK.", {"left kidney/ 30"}),
    ("Left renal mass of 3 cm.", {"left kidney/ 30"}),
    ("3 cm renal cell carcinoma on the left.", {"left kidney/ 30"}),
    ("HCC in the left lobe, 4 cm.", {"liver/left lobe 40"}),
    ("There is a 3 cm mass in the pancreatic tail abutting the spleen.", {"pancreas/tail 30"}),
    ("2 cm liver metastasis from colon cancer.", {"liver/right lobe 20"}),
    ("2 cm mass in the tail of the pancreas adjacent to the stomach.", {"pancreas/tail 20"}),
    ("Right adrenal: 2 cm nodule.", {"right adrenal gland/ 20"}),
    ("Kidneys: 2 cm mass on the left.", {"left kidney/ 20"}),
    ("In the right hepatic lobe there is a hypodense mass, 38 mm.", {"liver/right lobe 38 hypodense"}),
    # several lesions
    (
        "24 mm mass in the sigmoid colon and a 12 mm hypodense nodule in the right hepatic lobe.",
        {"colon/sigmoid 24", "liver/right lobe 12 hypodense"},
    ),
    ("Left renal masses measuring 2 cm and 3 cm.", {"left kidney/ 20", "left kidney/ 30"}),
    ("Masses in the liver (24 mm) and spleen (12 mm).", {"liver/right lobe 24", "spleen/ 12"}),
    ("Bilateral adrenal nodules measuring 2 cm.", {"right adrenal gland/ 20", "left adrenal gland/ 20"}),
    ("Two 15 mm metastases in the left hepatic lobe.", {"liver/left lobe 15"}),
    ("Multiple liver metastases, the largest 3.2 cm.", {"liver/right lobe 32"}),
    ("24 mm mass in the sigmoid colon, suspicious for adenocarcinoma.", {"colon/sigmoid 24"}),
    ("Mass in the sigmoid colon. It measures 24 mm.", {"colon/sigmoid 24"}),
    ("Mass in the sigmoid colon. The mass measures 24 mm and is hypodense.", {"colon/sigmoid 24 hypodense"}),
    ("FINDINGS: 24 mm mass in the sigmoid colon. IMPRESSION: Sigmoid colon cancer.", {"colon/sigmoid 24"}),
    ("FINDINGS: 24 mm mass in the sigmoid colon. IMPRESSION: 2.4 cm colon mass.", {"colon/sigmoid 24"}),
    (
        "FINDINGS: 24 mm sigmoid mass. 12 mm sigmoid mass. IMPRESSION: 1. 12 mm sigmoid mass. 2. 24 mm sigmoid mass.",
        {"colon/sigmoid 24", "colon/sigmoid 12"},
    ),
    ("Liver: Enlarged. 2 cm lesion in the right lobe.", {"liver enlarged", "liver/right lobe 20"}),
    # statuses
    ("Status post left nephrectomy.", {"left kidney absent"}),
    ("S/p right radical nephrectomy.", {"right kidney absent"}),
    ("Nephrectomy on the left.", {"left kidney absent"}),
    ("Status post splenectomy and cholecystectomy.", {"spleen absent", "gallbladder absent"}),
    ("GB surgically absent.", {"gallbladder absent"}),
    ("Gallbladder: Surgically absent. Spleen: Normal.", {"gallbladder absent"}),
    ("The gallbladder has been removed.", {"gallbladder absent"}),
    ("Status post radical cystectomy.", {"urinary bladder absent"}),
    ("Hepatosplenomegaly.", {"liver enlarged", "spleen enlarged"}),
    ("Cardiomegaly. Distended gallbladder.", {"heart enlarged", "gallbladder enlarged"}),
    ("Atrophic left kidney.", {"left kidney small"}),
    ("The kidneys are atrophic bilaterally.", {"left kidney small", "right kidney small"}),
    ("The liver is normal in attenuation but enlarged.", {"liver enlarged"}),
    ("Enlarged liver and spleen.", {"liver enlarged", "spleen enlarged"}),
    ("Solitary right kidney.", {"left kidney absent"}),
    ("History of splenectomy.", {"spleen absent"}),
    ("CT chest. The liver contains small cysts.", set()),
    ("CT chest. Dilated bile duct. Pancreatic duct is dilated.", set()),
    ("The spleen is enlarged, measuring 15 cm.", {"spleen enlarged"}),
    ("Status post partial nephrectomy on the left. Spleen normal.", set()),
    # everyday words and telegram style
    ("A big liver tumor in the left lobe and no gallbladder.", {"liver/left lobe 50", "gallbladder absent"}),
    ("No gallbladder stones. No liver, spleen or kidney mass.", set()),
    ("Liver tumor 30mm, kidney left missing.", {"liver/right lobe 30", "left kidney absent"}),
    (
        "S/P LEFT NEPHRECTOMY FOR RCC. NEW 1.9 CM RIGHT ADRENAL NODULE.",
        {"left kidney absent", "right adrenal gland/ 19"},
    ),
    ("Circumferential thickening of the rectum with a 45 mm mass.", {"colon/rectum 45"}),
    ("The bladder contains a 2 cm polypoid mass along its left wall.", {"urinary bladder/ 20"}),
    (
        "Low density lesions in both lobes of the liver, the largest in segment 3 (21 mm).",
        {"liver/left lobe 21 hypodense"},
    ),
    ("Masses in the head and tail of the pancreas, 2 cm and 3 cm.", {"pancreas/head 20", "pancreas/tail 30"}),
    ("CT chest. Pancreatic body and tail are atrophic.", set()),
    (
        "Nodules in the right upper lobe (12 mm), left lower lobe (9 mm) and right lower lobe (7 mm).",
        {"right lung/upper lobe 12", "left lung/lower lobe 9", "right lung/lower lobe 7"},
    ),
    ("INDICATION: lung cancer screening. There is a 14 mm nodule in the left upper lobe.", {"left lung/upper lobe 14"}),
    ("Lung cancer: 4.5 cm mass, left upper lobe.", {"left lung/upper lobe 45"}),
    ("FINDINGS: 3 cm mass in the left kidney. IMPRESSION: Renal mass.", {"left kidney/ 30"}),
    ("3 cm metastasis from colon cancer in the left hepatic lobe.", {"liver/left lobe 30"}),
    ("3 cm mass abutting the spleen, in the pancreatic tail.", {"pancreas/tail 30"}),
]

NOT_USED = [
    # Text, a word of the reason that `ignored` gives.
    ("Possible 3 cm mass in the pancreatic head. Spleen normal.", "uncertain"),
    ("Cannot exclude a liver metastasis. Spleen normal.", "uncertain"),
    ("A 2 cm liver lesion cannot be excluded. Spleen normal.", "uncertain"),
    ("Spleen normal. Mass possibly arising from the left adrenal gland.", "uncertain"),
    ("Scheduled for cholecystectomy. Spleen normal.", "planned"),
    ("HISTORY: colon cancer. FINDINGS: Spleen normal.", "history"),
    ("Spleen normal. 2 cm mass in the thyroid.", "vocabulary"),
    ("Spleen normal. A 24 mm mass is seen.", "organ"),
    ("Spleen normal. 2 cm mass adjacent to the liver.", "organ"),
    ("Liver normal. 2 cm mass in the flibbertigibbet.", "organ"),
    ("Spleen normal. 4 mm nodule in the RUL.", "6 to 120 mm"),
    ("Spleen normal. 3 cm simple cyst in the left kidney.", "not a tumour"),
    ("Status post partial nephrectomy on the left. Spleen normal.", "part"),
    ("Status post nephrectomy. Spleen normal.", "left or right"),
    ("Status post pancreatectomy. Spleen normal.", "not a status"),
    ("The liver measures 17 cm. Spleen normal.", "length"),
    ("CT abdomen and pelvis. Spleen normal. 9 mm nodule in the RLL.", "outside the field"),
    ("Rectal mass, 30 mm, 5 cm from the anal verge.", "distance"),
    ("2 cm liver mass, previously 18 mm.", "earlier"),
    ("RECOMMENDATION: follow up of the liver mass. FINDINGS: Spleen normal.", "history"),
]

REFUSED = [
    ("", ReportError),
    ("Good morning.", ReportError),
    ("67-year-old woman.", ReportError),
    ("Mass in the thyroid.", ReportError),
    ("A 2 cm mass.", ReportError),
    ("CT chest. 3 mm nodule in the right upper lobe.", FindingsError),
    ("15 cm mass in the liver.", FindingsError),
    ("Gallbladder polyp, 8 mm.", FindingsError),
    ("Status post cholecystectomy. The gallbladder is distended.", FindingsError),
    ("Status post cholecystectomy. The gallbladder is normal.", FindingsError),
    ("Status post splenectomy. 2 cm mass in the spleen.", FindingsError),
    ("The liver is enlarged. Atrophic liver.", FindingsError),
    ("CT abdomen and pelvis. 9 mm nodule in the right upper lobe.", FindingsError),
    ("A 67-year-old woman. Male patient. Spleen enlarged.", FindingsError),
    ("x" * 40_000, ReportError),
]


def facts(findings: Findings) -> list[str]:
    """Lesions and statuses of the findings in the shorthand of SENTENCES."""
    lesions = [f"{le.organ}/{le.site} {le.size_mm:.0f} {le.attenuation}".strip() for le in findings.lesions]
    return sorted(lesions + [f"{organ} {status}" for organ, status in findings.organs.items()])


@pytest.mark.parametrize(("text", "expected"), SENTENCES, ids=[text for text, _ in SENTENCES])
def test_a_sentence_is_read_as_a_radiologist_means_it(text: str, expected: set[str]) -> None:
    found = facts(abstract_report(text).findings)
    assert set(found) == expected
    assert len(found) == len(expected) + ("Two 15 mm" in text)


@pytest.mark.parametrize(("text", "reason"), NOT_USED, ids=[text for text, _ in NOT_USED])
def test_what_is_not_used_is_recorded_with_its_reason(text: str, reason: str) -> None:
    result = abstract_report(text)
    assert any(reason in line for line in result.ignored), result.ignored
    assert facts(result.findings) in ([], ["colon/rectum 30"], ["liver/right lobe 20"])


@pytest.mark.parametrize(("text", "error"), REFUSED, ids=[text[:40] or "empty" for text, _ in REFUSED])
def test_contradictions_and_reports_without_content_are_refused_in_one_sentence(text: str, error: type) -> None:
    with pytest.raises(error) as caught:
        abstract_report(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "region", "phase"),
    [
        ("CT abdomen and pelvis with contrast.", "abdomen and pelvis", "portal venous"),
        ("CT A/P w/o contrast.", "abdomen and pelvis", "non-contrast"),
        ("CT of the thorax, unenhanced.", "chest", "non-contrast"),
        ("Chest CT in the late arterial phase.", "chest", "arterial"),
        ("Contrast-enhanced CT of the abdomen.", "abdomen", "portal venous"),
        ("CT abdomen, venous phase.", "abdomen", "portal venous"),
        ("CT of the chest, abdomen and pelvis with IV contrast.", "abdomen", "portal venous"),
        ("CT chest/abdomen/pelvis. 3 cm bladder mass.", "abdomen and pelvis", ""),
        ("CT C/A/P. 12 mm nodule in the RUL.", "abdomen", ""),
        ("CT abdomen with contrast in the arterial phase.", "abdomen", "arterial"),
        ("EXAM: CT CHEST\nCOMPARISON: CT abdomen and pelvis with contrast.\nFINDINGS: Normal heart.", "chest", ""),
        ("INDICATION: abnormal CT abdomen.\nEXAM: CT chest.\nFINDINGS: Normal heart.", "chest", ""),
        ("TECHNIQUE: CT abdomen with oral contrast. FINDINGS: Splenomegaly.", "abdomen", ""),
        ("Splenomegaly.", "abdomen and pelvis", ""),
        ("Cardiomegaly. 2 cm mass in the RLL.", "chest", ""),
        ("CT pelvis without contrast. Rectal mass, 3 cm.", "abdomen and pelvis", "non-contrast"),
    ],
)
def test_region_and_phase_are_taken_from_the_title_and_technique(text: str, region: str, phase: str) -> None:
    findings = abstract_report(text).findings
    assert (findings.region, findings.phase) == (region, phase)


@pytest.mark.parametrize(
    ("text", "sex", "decade"),
    [
        ("67-year-old woman.", "female", 60),
        ("67 y/o M.", "male", 60),
        ("67F.", "female", 60),
        ("Female, 34.", "female", 30),
        ("Man in his 70s.", "male", 70),
        ("Age: 54. Sex: F.", "female", 50),
        ("Patient in the seventh decade of life.", "", 60),
        ("3-month-old boy.", "male", 0),
        ("She is 81 years old.", "female", 80),
        ("Woman in her sixties.", "female", 60),
        ("Images acquired with a 60s delay.", "", None),
        ("Her 40-year-old brother had colon cancer.", "", None),
    ],
)
def test_sex_and_age_decade_are_those_of_the_patient(text: str, sex: str, decade: int | None) -> None:
    findings = abstract_report(f"{text} CT chest.").findings
    assert (findings.sex, findings.age_decade) == (sex, decade)


def test_the_example_of_the_documentation_drives_region_phase_lesion_and_status() -> None:
    text = "CT abdomen and pelvis with contrast. 24 mm mass in the sigmoid colon. Status post cholecystectomy."
    result = abstract_report(text)
    assert (result.findings.region, result.findings.phase) == ("abdomen and pelvis", "portal venous")
    assert facts(result.findings) == ["colon/sigmoid 24", "gallbladder absent"]
    assert result.ignored == ()
    assert any("contrast without a phase" in line for line in result.understood)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Mass in the sigmoid colon.", "20 mm taken"),
        ("Large mass in the sigmoid colon.", "50 mm taken"),
        ("2 cm pancreatic mass.", "head taken"),
        ("2 cm renal mass.", "right taken"),
        ("Splenomegaly.", "region not stated"),
        ("CT chest, abdomen and pelvis. Splenomegaly.", "384 mm"),
    ],
)
def test_every_default_that_is_filled_in_is_recorded(text: str, choice: str) -> None:
    assert any(choice in line for line in abstract_report(text).understood)


def test_a_whole_report_with_headings_wrapped_lines_and_boilerplate_is_read() -> None:
    text = """
    EXAMINATION: CT ABDOMEN AND PELVIS WITH IV CONTRAST

    CLINICAL HISTORY: 67 year old female with colon cancer, s/p cholecystectomy. Evaluate for liver metastases.
    TECHNIQUE: 5 mm axial images in the portal venous phase. CTDIvol 12 mGy.
    COMPARISON: CT chest 3/4/2021, when a 12 mm nodule was seen in the right upper lobe.

    FINDINGS:
    Lung bases: Clear. No pleural effusion.
    Liver: Mildly enlarged. There is a 2.4 x 1.8 cm hypoattenuating lesion in the right hepatic
    lobe (segment VII), previously 18 mm. No biliary ductal dilatation.
    Gallbladder: Surgically absent.
    Spleen: Normal in size.
    Kidneys: Atrophic left kidney. 4 mm nonobstructing stone in the right kidney. No hydronephrosis.
    Bowel: Irregular mass in the sigmoid colon, 5 cm long. Appendix normal.
    Bones: No suspicious lesion.

    IMPRESSION:
    1. Sigmoid colon carcinoma.
    2. Single 2.4 cm liver metastasis.
    3. Cannot exclude a right adrenal nodule.
    """
    result = abstract_report(text)
    assert (result.findings.sex, result.findings.age_decade) == ("female", 60)
    assert (result.findings.region, result.findings.phase) == ("abdomen and pelvis", "portal venous")
    assert facts(result.findings) == [
        "colon/sigmoid 50",
        "gallbladder absent",
        "left kidney small",
        "liver enlarged",
        "liver/right lobe 24 hypodense",
    ]
    assert any("adrenal" in line and "uncertain" in line for line in result.ignored)


_WORDS = sorted({word for word in lexicon_for(TORSO).trie if word.isalpha()})


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=400),
        # Real vocabulary in senseless order reaches far more rules than random characters do.
        st.lists(st.sampled_from([*_WORDS, ".", ",", ":", "2 cm", "24 x 18 mm", "(", "\n", "?"]), max_size=60).map(
            " ".join
        ),
    )
)
@example("_")
@example("1" * 20_000)
@example("2 x " * 5_000)
@example("24 mm " * 4_000)
@example("mass " * 5_000)
@example("no " * 9_000)
def test_no_text_raises_anything_but_the_packages_own_error(text: str) -> None:
    for anatomy in (TORSO, HEAD_NECK):
        with contextlib.suppress(GuideGenError):
            abstract_report(text, anatomy)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.6, 12.0), st.sampled_from(["mm", "cm"]), st.sampled_from([".", ","]))
def test_a_length_means_the_same_in_mm_and_cm_with_point_or_comma(cm: float, unit: str, mark: str) -> None:
    number = f"{cm:.2f}" if unit == "cm" else f"{cm * 10:.1f}"
    (measure,) = find_measures(f"a {number.replace('.', mark)} {unit} mass")
    assert measure.sizes_mm[0] == pytest.approx(cm * 10, abs=0.051)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(6, 99), min_size=2, max_size=3), st.sampled_from([" x ", "x", " by ", " × "]))
def test_the_longest_of_several_dimensions_counts_whatever_their_order(sizes: list[int], times: str) -> None:
    text = f"{times.join(map(str, sizes))} mm mass in the rectum."
    assert abstract_report(text).findings.lesions[0].size_mm == max(sizes)


def test_no_error_message_repeats_the_report() -> None:
    for text, error in REFUSED:
        with pytest.raises(error) as caught:
            abstract_report(f"{text} Xylophone patient.")
        assert "ylophone" not in str(caught.value)


def test_a_label_table_of_ones_own_is_read_by_its_own_names() -> None:
    classes = (OrganClass(0, "background", (), (-1024, 0), (0, 1e9), (0, 0, 0)),)
    organs = (
        FindingOrgan("left wing", "wing", "left", ("normal", "small"), ("tip", "root")),
        FindingOrgan("right wing", "wing", "right", ("normal", "small"), ("tip", "root")),
        FindingOrgan("gizzard", "gizzard", statuses=("normal", "enlarged")),
    )
    bird = Anatomy("bird", classes, organs, ("whole bird",), region_organs={"whole bird": frozenset()})
    lexicon = lexicon_for(bird)
    assert [item.kind for item in lexicon.tag("root of the left wing")] == [
        "baresite",
        "locative",
        "det",
        "side",
        "organ",
    ]
    assert lexicon.organs_of("wing", "both") == organs[:2]


def test_the_head_and_neck_table_takes_statuses_and_targets_by_side_and_level() -> None:
    text = "CT head and neck. Status post laryngectomy. The left parotid gland is atrophic. "
    findings = abstract_report(text + "PTV70 of 8 cm in the left upper neck.", HEAD_NECK).findings
    assert findings.region == "head and neck"
    assert facts(findings) == ["larynx absent", "left hemineck/upper third 80", "left parotid small"]
    assert abstract_report("CT neck. No mass.", HEAD_NECK).findings.region == "neck"
    with pytest.raises(GuideGenError):
        abstract_report("2 cm mass in the larynx.", HEAD_NECK)


def test_text_without_stops_is_cut_so_that_its_cost_stays_linear() -> None:
    pieces = split_sentences("no mass " * 3000, {})
    assert len(pieces) > 20
    assert all(len(piece.text) <= 800 for piece in pieces)


def work(page: str) -> int:
    """Function calls that one reading takes: the same on every machine, busy or not."""
    num_calls = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    with contextlib.suppress(GuideGenError):
        abstract_report("liver")  # what is loaded once
    sys.setprofile(count)
    try:
        with contextlib.suppress(GuideGenError):
            abstract_report(page)
    finally:
        sys.setprofile(None)
    return num_calls


#: Characters, and calls that take 15 to 80 ms.
_PAGE, _MOST_CALLS = 3_000, 120_000
#: One search of a text that is no longer linear would be a single call of many seconds.
_HANGS_S = 5.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([*_WORDS, ".", ",", ":", "2 cm", "24 x 18 mm", "(", "\n", "?"]), min_size=1, max_size=40)
)
@example(["24", "mm"])
@example(["no"])
@example(["big"])
@example(["pv"])
@example(["mass"])
@example(["2", "x"])
@example(["a", "2", "cm", "mass", "in", "the", "liver", ","])
@example(["from", "2", "cm", "to"])
@example(["segments", "4", "(", ")", "and"])
def test_reading_any_text_takes_work_that_grows_with_its_length_alone(words: list[str]) -> None:
    page = (" ".join(words) + " ") * _PAGE
    started = time.process_time()
    half, whole = work(page[: _PAGE // 2]), work(page[:_PAGE])
    assert whole < _MOST_CALLS
    assert whole < 2.3 * half + 1_000
    assert time.process_time() - started < _HANGS_S


def test_a_full_page_of_findings_takes_no_more() -> None:
    page = "The liver is enlarged, with a 24 mm hypodense mass in the right lobe (segment VII). No ascites. " * 40
    assert work(page[:_PAGE]) < _MOST_CALLS


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_the_command_prints_findings_prompt_and_record_as_json(source, tmp_path, monkeypatch, capsys) -> None:
    text = "CT chest. 12 mm nodule in the RUL. Possible liver mass."
    path = tmp_path / "report.txt"
    path.write_text(text)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    parser = ArgumentParser()
    abstract.configure(parser)
    assert abstract.run(parser.parse_args([str(path) if source == "file" else "-"])) == 0
    answer = json.loads(capsys.readouterr().out)
    assert Findings.from_dict(answer["findings"]).prompt() == answer["prompt"]
    assert set(answer) == {"findings", "prompt", "understood", "ignored", "read_by", "disagreements"}
    assert len(answer["ignored"]) == 1


def test_the_command_refuses_a_missing_file_and_bytes_that_are_no_text(tmp_path) -> None:
    parser = ArgumentParser()
    abstract.configure(parser)
    binary = tmp_path / "report.txt"
    binary.write_bytes(b"\xff\xfe\x00mass")
    for name in (str(tmp_path / "none.txt"), str(tmp_path), str(binary)):
        with pytest.raises(ReportError):
            abstract.run(parser.parse_args([name]))


def test_sentences_of_which_nothing_is_taken_are_listed_as_ignored() -> None:
    text = (
        "CT abdomen and pelvis with contrast. 64-year-old man. He is obese. 24 mm mass in the sigmoid colon. "
        "Mild ascites. The liver is normal. Horseshoe kidney. No pleural effusion."
    )
    ignored = abstract_report(text).ignored
    assert [line.split(":")[0] for line in ignored] == [
        "'mild ascites.'",
        "'horseshoe kidney.'",
        "'no pleural effusion.'",
    ]
    assert all(line.endswith("nothing in it is in the vocabulary") for line in ignored)
