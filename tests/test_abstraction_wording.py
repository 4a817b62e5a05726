"""Abstraction of realistic snippets: telegram style, dictation, structured and European reports, each by hand."""

from __future__ import annotations

import pytest

from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings

# Text -> 'organ/site mm [attenuation]', 'organ status', and of the scan only what is listed ('phase arterial', ...).
SNIPPETS: list[tuple[str, set[str]]] = [
    # chest
    ("Chest CT w/o contrast. RLL pulm nodule 12mm, solid. No LAD.", {"right lung/lower lobe 12"}),
    ("CT thorax. 1. Right upper lobe spiculated mass 4.3 x 3.9 cm. 2. No effusion.", {"right lung/upper lobe 43"}),
    ("CT chest: known bronchial carcinoma, left upper lobe, currently 38 mm (previously 45 mm).",
     {"left lung/upper lobe 38"}),
    ("CT chest. In the posterior segment of the right upper lobe there is a part-solid nodule of 18 mm.",
     {"right lung/upper lobe 18"}),
    ("CT thorax: mass in S6 of the left lower lobe, 27 mm. Heart enlarged.",
     {"left lung/lower lobe 27", "heart enlarged"}),
    ("Chest CT. Lungs: Nodule in the left upper lobe (14 mm). Ground-glass opacity in the right lower lobe.",
     {"left lung/upper lobe 14"}),
    ("Chest CT. Bilateral pulmonary metastases: right lower lobe 21 mm, left upper lobe 16 mm.",
     {"right lung/lower lobe 21", "left lung/upper lobe 16"}),
    ("Chest CT. No suspicious pulmonary nodule or mass. Cardiomegaly is again noted.", {"heart enlarged"}),
    ("CT chest. Dilated ascending aorta measuring 46 mm. No pulmonary nodules.", {"aorta enlarged"}),
    ("CT chest. Tiny calcified granuloma in the right upper lobe. Heart size is normal.", set()),
    ("CT chest. LUL lobectomy. 11 mm nodule in the LLL.", {"left lung/lower lobe 11"}),
    ("CT chest. The lung mass on the left measures 52 mm and lies in the lower lobe.", {"left lung/lower lobe 52"}),
    # liver
    ("CT abdomen. Hepatic lesions: seg IVa 22 mm; seg VI 9 mm.", {"liver/left lobe 22", "liver/right lobe 9"}),
    ("CT abdomen. Liver: 2,8 cm hypodense SOL in segment V.", {"liver/right lobe 28 hypodense"}),
    ("CT abdomen. Metastases in both liver lobes, up to 35 mm (segment VII).", {"liver/right lobe 35"}),
    ("CT abdomen. Hypervascular 2.5 cm focus in hepatic segment II consistent with HCC.",
     {"liver/left lobe 25 hyperdense"}),
    ("CT abdomen. Liver mildly enlarged with fatty infiltration; a 1.5 cm hemangioma in segment 8 is unchanged.",
     {"liver enlarged", "liver/right lobe 15"}),
    ("CT abdomen. Lesion #1: right hepatic lobe, 4.0 cm. Lesion #2: left hepatic lobe, 2.0 cm.",
     {"liver/right lobe 40", "liver/left lobe 20"}),
    ("CT abdomen. There are innumerable hepatic cysts; the largest is 4 cm. No solid lesion.", set()),
    ("CT abdomen. Focal fat adjacent to the falciform ligament. Liver not enlarged. No mass.", set()),
    ("CT abdomen. A hypoattenuating lesion measuring 18 mm (series 3, image 45) in the left lobe of the liver.",
     {"liver/left lobe 18 hypodense"}),
    ("CT abdomen. Liver, segment 6/7: metastasis, 3.1 cm.", {"liver/right lobe 31"}),
    ("CT abdomen. Hepatic metastasis (left lobe) has grown from 1,2 to 2,4 cm.", {"liver/left lobe 24"}),
    # spleen, kidneys, adrenals
    ("CT abdomen. Spleen 14.5 cm, mildly enlarged. Focal splenic lesion of 1.1 cm.", {"spleen enlarged", "spleen/ 11"}),
    ("CT abdomen. Both kidneys are small.", {"left kidney small", "right kidney small"}),
    ("CT abdomen. The right kidney is absent, the left is hypertrophic.",
     {"right kidney absent", "left kidney enlarged"}),
    ("CT abdomen. L kidney: s/p nephrectomy. R kidney: 2.6 cm enhancing mass, upper pole.",
     {"left kidney absent", "right kidney/ 26"}),
    ("CT abdomen. Z.n. nephrectomy left. No tumour.", {"left kidney absent"}),
    ("CT abdomen. Status post right-sided partial nephrectomy for RCC, no recurrence.", set()),
    ("CT abdomen. Renal cysts bilaterally, up to 4 cm. Left renal mass 2 cm.", {"left kidney/ 20"}),
    ("CT abdomen. Left adrenal thickened without nodule. Right adrenal nodule of 13 mm, 8 HU.",
     {"right adrenal gland/ 13"}),
    ("CT abdomen. Adrenals: L - 2.2 cm adenoma; R - normal.", {"left adrenal gland/ 22"}),
    ("CT abdomen. Horseshoe kidney. No renal mass. Splenule at the hilum, 1 cm.", set()),
    ("CT abdomen. Ptotic right kidney with a 35mm tumor in the middle third.", {"right kidney/ 35"}),
    # pancreas, stomach
    ("CT abdomen. 2.4 cm hypodense pancreatic head mass with upstream duct dilatation (8 mm).",
     {"pancreas/head 24 hypodense"}),
    ("CT abdomen. Atrophic pancreatic tail upstream of a 30 mm body tumor.", {"pancreas/body 30"}),
    ("CT abdomen. Mass at the junction of the body and tail of the pancreas, 3 cm.", {"pancreas/body 30"}),
    ("CT abdomen. Pancreas: Normal. Stomach: 4 cm exophytic mass along the greater curvature, likely GIST.",
     {"stomach/ 40"}),
    ("CT abdomen. Thickened gastric wall. Stomach under-distended.", {"stomach small"}),
    ("CT abdomen. The stomach is well distended. No mass.", set()),
    ("CT abdomen. Status post Whipple. Liver metastasis 2 cm, segment 3.", {"liver/left lobe 20"}),
    ("CT abdomen. Insulinoma, 12 mm, tail of the pancreas, hyperenhancing.", {"pancreas/tail 12 hyperdense"}),
    # bowel and pelvis
    ("CT abdomen and pelvis. Circumferential mass of the cecum over 6 cm. Appendix not seen.", {"colon/ascending 60"}),
    ("CT abdomen and pelvis. Rectal ca, 4.5cm, 7 cm from anal verge, no liver mets.", {"colon/rectum 45"}),
    ("CT abdomen and pelvis. Sigmoid diverticulosis. 3.2 cm polypoid mass in the proximal sigmoid.",
     {"colon/sigmoid 32"}),
    ("CT abdomen and pelvis. Hepatic flexure tumor 55 mm; splenic flexure unremarkable.", {"colon/ascending 55"}),
    ("CT abdomen and pelvis. Descending colon: mass 29 mm. Transverse colon: normal.", {"colon/descending 29"}),
    ("CT abdomen and pelvis. 25 mm polyp in the transverse colon, spleen enlarged.",
     {"colon/transverse 25", "spleen enlarged"}),
    ("CT abdomen and pelvis. Bladder: Distended, with 22 mm mass at the left ureterovesical junction.",
     {"urinary bladder enlarged", "urinary bladder/ 22"}),
    ("CT abdomen and pelvis. Bladder decompressed by Foley catheter. Uterus with 5 cm fibroid.",
     {"urinary bladder small"}),
    ("CT abdomen and pelvis. Ovarian mass 7 cm. Liver lesion 2 cm in segment 5.", {"liver/right lobe 20"}),
    # negation, doubt, history
    ("CT abdomen. No evidence of hepatic, splenic, pancreatic, adrenal or renal mass.", set()),
    ("CT abdomen. Spleen and liver are not enlarged. Gallbladder absent.", {"gallbladder absent"}),
    ("CT abdomen. Questionable 1 cm lesion in the spleen. Definite 2 cm lesion in the left kidney.",
     {"left kidney/ 20"}),
    ("CT abdomen. Prior cholecystectomy and splenectomy, appendectomy.", {"gallbladder absent", "spleen absent"}),
    ("CT abdomen. Planned nephrectomy. 4 cm mass of the left kidney.", {"left kidney/ 40"}),
    ("CT abdomen. History of pancreatic cancer in the father. Liver normal.", set()),
    ("CT abdomen. Rule out splenomegaly. The spleen is normal in size.", set()),
    ("CT abdomen. Interval resolution of the 2 cm splenic lesion. Liver normal.", set()),
    ("CT abdomen. The formerly 3 cm liver metastasis is no longer visible. No new lesion.", set()),
    ("CT abdomen. No enlargement of the spleen. The liver does not contain a mass.", set()),
    ("CT abdomen. Neither the gallbladder nor the spleen is present.", {"gallbladder absent", "spleen absent"}),
    ("CT abdomen. Liver and spleen enlarged, kidneys normal, no tumor.", {"liver enlarged", "spleen enlarged"}),
    ("CT abdomen. Gallbladder not visualized, status post CCE.", {"gallbladder absent"}),
    ("CT abdomen. Without hepatosplenomegaly. GB contracted.", {"gallbladder small"}),
    # numbers
    ("CT abdomen. Left kidney tumour of 3,5 x 2,8 x 3,0 cm.", {"left kidney/ 35"}),
    ("CT abdomen. Pancreatic head tumor, about 2 to 2.5 cm.", {"pancreas/head 22"}),
    ("CT abdomen. Splenic lesion approx. 0.9cm.", {"spleen/ 9"}),
    ("CT abdomen. Liver tumour segment 6 measuring 12 × 9 mm.", {"liver/right lobe 12"}),
    ("CT abdomen. Gastric mass (AP 41 mm, TR 36 mm, CC 52 mm).", {"stomach/ 52"}),
    ("CT abdomen. Max. axial diameter of the right renal tumour: 4.4 cm.", {"right kidney/ 44"}),
    ("CT abdomen. A right renal mass is 31 mm by 27 mm in size.", {"right kidney/ 31"}),
    ("CT abdomen. Left renal tumour < 2 cm (17 mm).", {"left kidney/ 17"}),
    # scan and patient
    ("Abdomen/pelvis CT, i.v. contrast, p.v. phase. Spleen absent.", {"spleen absent", "phase portal venous"}),
    ("CT abdomen, late arterial + portal venous. Liver enlarged.", {"liver enlarged", "phase portal venous"}),
    ("NCCT abdomen. Liver enlarged.", {"liver enlarged", "phase non-contrast"}),
    ("CECT chest. 3 cm mass RUL.", {"right lung/upper lobe 30", "phase portal venous"}),
    ("CT abdomen of a 45 yr old obese gentleman. Liver enlarged.",
     {"liver enlarged", "sex male", "age 40", "habitus large"}),
    ("71-jährige woman, CT abdomen, plain. Spleen small.", {"spleen small", "sex female", "phase non-contrast"}),
    ("This 8-year-old girl has a 6 cm left renal tumour. CT abdomen.", {"left kidney/ 60", "sex female", "age 0"}),
    ("CT abdomen. Thin-walled gallbladder. Slim 30-something woman. Spleen enlarged.",
     {"spleen enlarged", "sex female", "habitus slim", "age 30"}),
]  # fmt: skip


def facts(findings: Findings, expected: set[str]) -> set[str]:
    """Lesions and statuses in the shorthand of SNIPPETS, and of the scan what `expected` asks for."""
    lesions = {f"{le.organ}/{le.site} {le.size_mm:.0f} {le.attenuation}".strip() for le in findings.lesions}
    scan = {
        f"phase {findings.phase}",
        f"sex {findings.sex}",
        f"age {findings.age_decade}",
        f"habitus {findings.habitus}",
    }
    asked = {word.split()[0] for word in expected}
    told = {word for word in scan if word.split()[0] in asked}
    return lesions | {f"{organ} {status}" for organ, status in findings.organs.items()} | told


@pytest.mark.parametrize(("text", "expected"), SNIPPETS, ids=[text for text, _ in SNIPPETS])
def test_a_snippet_is_read_as_a_radiologist_means_it(text: str, expected: set[str]) -> None:
    result = abstract_report(text)
    assert facts(result.findings, expected) == expected, result.ignored


@pytest.mark.parametrize(
    ("text", "habitus"),
    [
        ("BMI 17,9.", "slim"),
        ("BMI of 18.5 kg/m2.", "average"),
        ("BMI: 29.9.", "average"),
        ("Body mass index 30.", "large"),
        ("BMI 4.", ""),
        ("BMI 45-year-old.", ""),
        ("Not obese.", ""),
        ("Possible obesity.", ""),
        ("Her mother was obese.", ""),
        ("Thin sections of 1 mm.", ""),
        ("The pancreas is thin.", ""),
        ("Thin, 67-year-old woman.", "slim"),
        ("Large body habitus.", "large"),
        ("Body habitus: slim.", "slim"),
        ("Paucity of visceral fat.", "slim"),
        ("Scant mesenteric fluid.", ""),
    ],
)
def test_habitus_is_that_of_the_patient_and_only_when_it_is_a_fact(text: str, habitus: str) -> None:
    result = abstract_report(f"CT chest. {text}")
    assert result.findings.habitus == habitus, result.understood
    assert result.findings.organs == {}


def test_the_first_habitus_stands_and_another_one_is_noted() -> None:
    result = abstract_report("CT chest. Obese patient. BMI 22.")
    assert result.findings.habitus == "large"
    assert any("another habitus" in line for line in result.ignored)
