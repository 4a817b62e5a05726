"""What each rule of the abstraction takes and leaves, in sentences that stand in no benchmark: by hand."""

from __future__ import annotations

import pytest

from guidegen_data.anatomy import HEAD_NECK, TORSO, Anatomy
from guidegen_data.errors import GuideGenError
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings

# The rule -> texts with their lesions as 'organ/site mm [attenuation]' and statuses as 'organ status'.
RULES: dict[str, list[tuple[str, set[str]]]] = {
    "what is too small to be characterised says nothing of an organ": [
        ("Spleen: punctate hypodensity, too small to characterise.", set()),
        ("The hypodensities in both kidneys are too small for evaluation.", set()),
        ("The left kidney is too small.", {"left kidney small"}),
    ],
    "a lesion that is said to be benign is none": [
        ("25 mm low density lesion of the right kidney compatible with a simple cyst.", set()),
        ("Hypodense splenic lesion of 3 cm, most likely an infarct.", set()),
        ("A 4 cm rim enhancing lesion in segment 4 represents an abscess.", set()),
        ("Hypodense lesions in the liver, probably cysts, up to 12 mm.", set()),
        ("The 14 mm lesion in segment 4b is focal fat.", set()),
        ("11 mm lesion of the spleen. This is most likely a granuloma.", set()),
        ("25 mm lesion of the spleen may represent a cyst.", {"spleen/ 25"}),
        ("25 mm lesion of the spleen, likely abscess or metastasis.", {"spleen/ 25"}),
        ("25 mm lesion of the spleen, not consistent with a cyst.", {"spleen/ 25"}),
        ("25 mm lesion of the spleen consistent with lymphoma; cyst of the liver.", {"spleen/ 25"}),
        ("25 mm lesion of the spleen. This is most likely a metastasis.", {"spleen/ 25"}),
    ],
    "the size of an earlier scan is not that of this one": [
        ("Splenic lesion 14 mm (was 22 mm).", {"spleen/ 14"}),
        ("Splenic lesion: 14 mm, baseline 22 mm, nadir 11 mm.", {"spleen/ 14"}),
        ("Rectal mass 41 mm (prev. 52 mm).", {"colon/rectum 41"}),
        ("The 31 mm mass in the pancreatic tail currently measures 18 mm.", {"pancreas/tail 18"}),
        ("Left adrenal nodule has grown to 24 mm from 19 mm.", {"left adrenal gland/ 24"}),
        ("Left adrenal nodule has grown from 19 mm to 24 mm.", {"left adrenal gland/ 24"}),
        ("Left adrenal nodule 24 mm, compared to prior measurement of 31 mm.", {"left adrenal gland/ 24"}),
        ("Left adrenal nodule of 24 mm, initially 31 mm.", {"left adrenal gland/ 24"}),
        ("The gastric mass was 31 mm.", {"stomach/ 31"}),
        ("Previously seen 31 mm gastric mass is unchanged.", {"stomach/ 31"}),
        ("Gastric mass of 31 mm, and a right adrenal nodule now 12 mm.", {"stomach/ 31", "right adrenal gland/ 12"}),
    ],
    "the length of an organ is not that of its lesion": [
        ("The right kidney measures 12 cm and contains a 3 cm mass.", {"right kidney/ 30"}),
        ("Right kidney 12 cm with a 3 cm mass.", {"right kidney/ 30"}),
        ("Splenomegaly of 11 cm, with splenic lesions, the largest 18 mm.", {"spleen enlarged", "spleen/ 18"}),
        ("Spleen enlarged, 11 cm, containing a 15 mm lesion.", {"spleen enlarged", "spleen/ 15"}),
        ("Spleen: 15 mm hypodense lesion.", {"spleen/ 15 hypodense"}),
        ("Right kidney shows a 3 cm, exophytic mass.", {"right kidney/ 30"}),
    ],
    "'the largest' points at the several lesions before": [
        ("Multiple liver metastases. The largest, in segment 2, measures 27 mm.", {"liver/left lobe 27"}),
        ("Liver: several hypodense lesions. Dominant one in segment 5, 27 mm.", {"liver/right lobe 27 hypodense"}),
        ("Pulmonary nodules. The largest is in the left lower lobe and measures 9 mm.", {"left lung/lower lobe 9"}),
        ("Two splenic masses. The larger is 4 cm.", {"spleen/ 40", "spleen/ 20"}),
        ("Liver metastases. The largest are 3 cm in segment 2 and 2 cm in segment 8.",
         {"liver/left lobe 30", "liver/right lobe 20"}),
        ("Liver lesion of 12 mm. Multiple splenic cysts. The largest measures 27 mm.", {"liver/right lobe 12"}),
        ("Liver metastases. The largest lymph node measures 27 mm.", {"liver/right lobe 20"}),
        ("No splenic masses. The largest measures 27 mm. Liver enlarged.", {"liver enlarged"}),
    ],
    "a bare lobe is of the organ with lobes that was named last": [
        ("Thyroid: 18 mm nodule in the left lobe. Liver enlarged.", {"liver enlarged"}),
        ("Multinodular thyroid. 18 mm nodule in the right lobe. Liver enlarged.", {"liver enlarged"}),
        ("The prostate has an 18 mm nodule in the left lobe. Liver enlarged.", {"liver enlarged"}),
        ("Thyroid nodule. Liver: 18 mm mass in the left lobe.", {"liver/left lobe 18"}),
        ("Spleen normal. 18 mm mass in the left lobe.", {"liver/left lobe 18"}),
    ],
    "a disease in the past or in the purpose of the scan is no lesion": [
        ("Status post radiotherapy for rectal cancer. Liver enlarged.", {"liver enlarged"}),
        ("Post chemotherapy for pancreatic head carcinoma. Liver enlarged.", {"liver enlarged"}),
        ("PMH of sigmoid cancer. Liver enlarged.", {"liver enlarged"}),
        ("RCC staging. Liver enlarged.", {"liver enlarged"}),
        ("Sigmoid cancer surveillance. Liver enlarged.", {"liver enlarged"}),
        ("Splenic lymphoma on treatment. Liver enlarged.", {"liver enlarged"}),
        ("Known gastric cancer. Gastric mass of 4 cm.", {"stomach/ 40"}),
        ("Gastric cancer, 4 cm.", {"stomach/ 40"}),
        ("Hypodense gastric cancer.", {"stomach/ 20 hypodense"}),
        ("Sigmoid cancer.", {"colon/sigmoid 20"}),
        ("Post contrast CT for a 4 cm gastric mass.", {"stomach/ 40"}),
    ],
    "a bladder that is partly full is normal, one that is hardly full is small": [
        ("The urinary bladder is partially distended.", set()),
        ("Bladder: moderately distended.", set()),
        ("Adequately distended bladder.", set()),
        ("Gallbladder: moderately distended.", {"gallbladder enlarged"}),
        ("The bladder is suboptimally distended.", {"urinary bladder small"}),
        ("Minimally distended urinary bladder.", {"urinary bladder small"}),
        ("The bladder is distended.", {"urinary bladder enlarged"}),
    ],
    "lengths go to the places that are listed in turn": [
        ("Metastases in segments 3 and 6 measuring 14 mm and 22 mm.", {"liver/left lobe 14", "liver/right lobe 22"}),
        ("Masses in the spleen and the stomach measuring 2 and 3 cm.", {"spleen/ 20", "stomach/ 30"}),
        ("Two nodules in the left lung: 8 mm in the upper lobe and 12 mm in the lower lobe.",
         {"left lung/upper lobe 8", "left lung/lower lobe 12"}),
    ],
    "a status stays with its organ whatever the organ holds": [
        ("Gallbladder contracted with sludge and stones.", {"gallbladder small"}),
        ("Left kidney atrophic with calcifications.", {"left kidney small"}),
        ("Liver enlarged with metastases.", {"liver enlarged", "liver/right lobe 20"}),
        ("The stomach contains a feeding tube and is collapsed.", {"stomach small"}),
        ("The liver is normal and the spleen is enlarged.", {"spleen enlarged"}),
        ("Aneurysmal dilatation of the infrarenal abdominal aorta.", {"aorta enlarged"}),
        ("Aneurysmal dilatation of the splenic artery. Liver enlarged.", {"liver enlarged"}),
    ],
    "a direction between side and organ changes neither": [
        ("22 mm mass of the right anterolateral kidney.", {"right kidney/ 22"}),
        ("22 mm mass arising from the left lateral gastric wall.", {"stomach/ 22"}),
        ("22 mm nodule in the apical segment of the right lower lobe.", {"right lung/lower lobe 22"}),
        ("22 mm nodule in the left posterior upper lobe.", {"left lung/upper lobe 22"}),
    ],
    "a second lesion is where the first is, a pointing one is the first": [
        ("Gastric mass of 4 cm. A second mass at the incisura measures 12 mm.", {"stomach/ 40", "stomach/ 12"}),
        ("Mass arising from an unheard of place, 33 mm. The gastric mass bleeds.", {"stomach/ 33"}),
        ("Gastric mass of 4 cm. An additional 2 cm mass in the flibbertigibbet.", {"stomach/ 40"}),
    ],
    "a deposit of another part along an organ is not in it": [
        ("Peritoneal implant nodule along the spleen, 2 cm. Liver enlarged.", {"liver enlarged"}),
        ("Serosal deposit on the stomach, 2 cm. Liver enlarged.", {"liver enlarged"}),
        ("Pleural based mass in the left lower lobe, 4 cm.", {"left lung/lower lobe 40"}),
    ],
    "a wall that a tumour thickens is a lesion as long as that": [
        ("Thickening of the sigmoid over 4 cm, in keeping with a carcinoma.", {"colon/sigmoid 40"}),
        ("Antral wall thickening, 14 mm thick, 5 cm long, representing the known cancer.", {"stomach/ 50"}),
        ("Thickening of the sigmoid over 4 cm, in keeping with colitis. Liver enlarged.", {"liver enlarged"}),
        ("Thickening of the sigmoid over 4 cm, suspicious for carcinoma. Liver enlarged.", {"liver enlarged"}),
        ("Thickening of the sigmoid up to 14 mm, in keeping with a carcinoma. Liver enlarged.", {"liver enlarged"}),
    ],
    "numbers are read in the forms that people write": [
        ("Left renal mass, 4.1 (AP) x 3.2 (TR) cm.", {"left kidney/ 41"}),
        ("Splenic lesion of 2cms.", {"spleen/ 20"}),
        ("Gastric mass of three point five centimeters.", {"stomach/ 35"}),
    ],
    "a name of seven letters may be misspelt by one": [
        ("Pancrease enlarged. Galbladder removed.", {"pancreas enlarged", "gallbladder absent"}),
        ("Stomahc collapsed.", {"stomach small"}),
        ("Ladder enlarged. Porta hepatis enlarged. Spleen small.", {"spleen small"}),
    ],
    "words that were missed": [
        ("Panc: 21 mm mass in the tail.", {"pancreas/tail 21"}),
        ("Observation in segment 3, 14 mm, with arterial enhancement.", {"liver/left lobe 14 hyperdense"}),
        ("Segment 3 nodule, 14 mm, without arterial enhancement.", {"liver/left lobe 14"}),
        ("The splenic mass is no longer visualised. Liver enlarged.", {"liver enlarged"}),
        ("New lesions: none. Liver enlarged.", {"liver enlarged"}),
    ],
}  # fmt: skip
TEXTS = [(rule, text, expected) for rule, texts in RULES.items() for text, expected in texts]
NECK = [
    ("The parotids are enlarged.", {"right parotid enlarged", "left parotid enlarged"}),
    ("Atrophic parotid glands.", {"right parotid small", "left parotid small"}),
    ("31 mm mass in the left neck.", {"left hemineck/middle third 31"}),
    ("31 mm mass in the upper neck on the right.", {"right hemineck/upper third 31"}),
]


def facts(text: str, anatomy: Anatomy) -> set[str]:
    """Lesions and statuses in the shorthand of RULES; a lesion outside every host is an error, told in a word."""
    try:
        found: Findings = abstract_report(text, anatomy).findings
    except GuideGenError:
        return {"refused"}
    lesions = {f"{le.organ}/{le.site} {le.size_mm:.0f} {le.attenuation}".strip() for le in found.lesions}
    return lesions | {f"{organ} {status}" for organ, status in found.organs.items()}


@pytest.mark.parametrize(("rule", "text", "expected"), TEXTS, ids=[f"{rule}: {text}" for rule, text, _ in TEXTS])
def test_a_rule_takes_what_is_meant_and_leaves_the_rest(rule: str, text: str, expected: set[str]) -> None:
    assert facts(f"CT abdomen and chest. {text}" if "bladder" not in text else f"CT pelvis. {text}", TORSO) == expected


@pytest.mark.parametrize(("text", "expected"), NECK, ids=[text for text, _ in NECK])
def test_the_neck_has_two_parotids_and_a_middle_third(text: str, expected: set[str]) -> None:
    assert facts(f"CT neck. {text}", HEAD_NECK) == expected


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("CT ABDOMEN WO CONTRAST.", "non-contrast"),
        ("CT abdomen and pelvis w/o.", "non-contrast"),
        ("CT abdomen without oral or intravenous contrast.", "non-contrast"),
        ("CT abdomen. Intravenous contrast was not administered.", "non-contrast"),
        ("CT abdomen. Limited by the lack of IV contrast.", "non-contrast"),
        ("CT abdomen. Contrast: none.", "non-contrast"),
        ("CT ABDOMEN NON-CON.", "non-contrast"),
        ("CT ABDOMEN W AND WO CONTRAST.", "portal venous"),
        ("CT abdomen w/ & w/o contrast.", "portal venous"),
        ("CT abdomen, unenhanced and in the arterial phase.", "arterial"),
        ("CT abdomen. TECHNIQUE: Noncontrast, corticomedullary and nephrographic images.", "arterial"),
        ("CT abdomen after 90 ml of Iopamidol.", "portal venous"),
        ("CT abdomen with oral Iopamidol.", ""),
        ("CT abdomen. The splenic lesion has no contrast enhancement.", ""),
        ("CT abdomen. No contrast extravasation.", ""),
        ("CT abdomen. 2 cm splenic lesion with arterial enhancement.", ""),
    ],
)
def test_denied_contrast_is_none_and_any_enhanced_phase_beats_it(text: str, phase: str) -> None:
    assert abstract_report(f"{text} Liver enlarged.").findings.phase == phase


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("CTPA.", "chest"),
        ("CT pulmonary angiogram.", "chest"),
        ("HRCT.", "chest"),
        ("CTCAP.", "abdomen"),
        ("CT TAP with contrast.", "abdomen"),
        ("CT KUB.", "abdomen and pelvis"),
        ("CT abdomen after a pleural tap.", "abdomen"),
    ],
)
def test_the_short_names_of_scans_tell_their_region(text: str, region: str) -> None:
    assert abstract_report(f"{text} Liver enlarged.").findings.region == region


@pytest.mark.parametrize(
    "text",
    [
        "HISTORY: 3 cm splenic mass in 2010. Rectal cancer.\n\nLiver is enlarged.\n\nIMPRESSION: As above.",
        "HISTORY: 3 cm splenic mass in 2010. Rectal cancer.\nThe liver is enlarged.\nIMPRESSION: As above.",
        "CT abdomen.\n\nIndication: 3 cm splenic mass. Rectal cancer.\n\nTechnique: with contrast.\n\nEnlarged liver.",
        "COMPARISON: 3 cm splenic mass.\n\nLiver enlarged.\n\nOPINION: Enlarged liver.",
        "HISTORY: 3 cm splenic mass.\n\nRectal cancer.\n\nFINDINGS: Liver enlarged.",
    ],
)
def test_a_history_without_findings_heading_ends_at_the_blank_line_or_its_line(text: str) -> None:
    assert facts(text, TORSO) == {"liver enlarged"}


@pytest.mark.parametrize(
    ("text", "sex", "decade"),
    [
        ("Male 47 years.", "male", 40),
        ("47 year female.", "female", 40),
        ("Female/47.", "female", 40),
        ("47 yrs/M.", "male", 40),
        ("Female, 47 mm mass of the spleen.", "female", None),
    ],
)
def test_an_age_is_read_beside_the_sex(text: str, sex: str, decade: int | None) -> None:
    found = abstract_report(f"CT abdomen. {text} Liver enlarged.").findings
    assert (found.sex, found.age_decade) == (sex, decade)
