"""`guidegen prepare` for data sets with many patients: every case as it is, mildly warped copies, a patient-wise split.

The prepared folder holds `train/` and `validation/` with one compressed array file a case, `split.csv`, `anatomy.yaml`,
`cases/NAME.json` with what was measured of each case, `refused.jsonl`, and `left_over.txt` with the volumes that belong
to no case. A case that is done is not done again, unless a file of it is gone; one that was refused is tried again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.anatomy_files import anatomy_text, read_anatomy
from guidegen_data.errors import FindingsError, GuideGenError, ReportError, SourceError
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.templates import library_for
from guidegen_data.sources import layouts, openkbp, population
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.claim import claim, note_measured
from guidegen_data.sources.describe import body_area_cm2, describe
from guidegen_data.sources.inputs import real_inputs
from guidegen_data.sources.labelling import organs_named, organs_of_ids, own_ids
from guidegen_data.sources.layouts import Labelled, LabelNames, SourceCase
from guidegen_data.sources.placing import Jitter, Placed, centre_of, clean, place
from guidegen_data.sources.prepared import case_path, save_case, write_text
from guidegen_data.sources.processes import spread

LAYOUTS = ("nifti", "totalsegmentator", "nnunet", "openkbp")


@dataclass(frozen=True)
class RealConfig:
    """What a prepared folder of real cases holds. `augment` copies of each training case; `renamed` maps source names.

    `validation_share` of the patients are kept apart where the data set names no split.
    """

    layout: str
    source: str
    anatomy: str
    augment: int = 0
    validation_share: float = 0.15
    seed: int = 0
    renamed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """One case of the source: its name and split, and why it was refused ('' when it was not)."""

    name: str
    split: str
    refused: str


#: A stage of the work, how many cases it has, and the one that is done now.
Progress = tuple[str, int, Done | None]


def prepare_real(
    src: Path,
    out: Path,
    config: RealConfig,
    anatomy: Anatomy,
    classes: Path | None = None,
    workers: int = 1,
    only: int | None = None,
) -> Iterator[Progress]:
    """Yields after every case of a stage: 'surveying', 'reading labels', 'preparing'.

    An anatomy without usual places is measured on the training patients first, and where labels have no names it is
    seen which are in use. `only` takes so many patients from the start. SourceError when `out` holds another set, or
    was begun with another table or other class names.
    """
    listed, names, left_over = _listed(src, config, classes)
    listed = layouts.split_by_patient(listed, config.validation_share, config.seed)
    cases = listed[:only]
    claim(out, asdict(config), cases, real_inputs(anatomy, names.ids))
    write_text(out / "left_over.txt", "".join(f"{path}\n" for path in left_over))
    with spread(workers) as run:
        survey = partial(_survey, config.layout, anatomy, names)
        anatomy = yield from _table(out, anatomy, partial(run, survey), [c for c in cases if c.split == "train"])
        labelled = yield from _labelled(listed, cases, config.layout, names, anatomy, run)
        work = _numbered(cases, config.augment)
        for done in run(partial(_prepare_one, out, config, names, labelled), work):
            yield "preparing", len(work), done
    _write_refused(out)


def _table(
    out: Path, anatomy: Anatomy, surveyed: Callable[..., Iterator[Any]], training: Sequence[SourceCase]
) -> Generator[Progress, None, Anatomy]:
    """The folder's label table, measured on the training cases where it tells no usual places; kept from then on."""
    kept = out / "anatomy.yaml"
    if not kept.exists():
        if not anatomy.layout_mm:
            surveys = []
            for measured in surveyed(training):
                surveys += [measured] if measured is not None else []
                yield "surveying", len(training), None
            anatomy = _measured(anatomy, surveys)
            note_measured(out, len(training))
        write_text(kept, anatomy_text(anatomy))
    return read_anatomy(kept)


def _labelled(
    listed: Sequence[SourceCase],
    cases: Sequence[SourceCase],
    layout: str,
    names: LabelNames,
    anatomy: Anatomy,
    run: Callable[..., Iterator[Any]],
) -> Generator[Progress, None, set[str]]:
    """Report names of the organs whose absence a label map tells of: those that the data set labels at all."""
    if layout == "openkbp":  # its planners had one list of structures: what they left out is what "absent" means there
        return set(anatomy.organ)
    named = organs_named(listed, names, anatomy)
    unnamed = [c for c in cases if c.label and names.ids is None]
    seen: set[int] = set()
    for ids in run(own_ids, unnamed):
        seen |= ids
        yield "reading labels", len(unnamed), None
    return named | organs_of_ids(seen, anatomy)


def _listed(src: Path, config: RealConfig, classes: Path | None) -> tuple[list[SourceCase], LabelNames, list[str]]:
    """The cases of a data set, the names of its labels, and the files that belong to no case."""
    ids: dict[int, str] | None = None
    left_over: list[str] = []
    if config.layout == "nifti":
        (cases, left_over), ids = layouts.find_nifti(src), layouts.classes_file(src, classes)
    elif config.layout == "totalsegmentator":
        cases = layouts.find_totalsegmentator(src)
    elif config.layout == "nnunet":
        cases, ids = layouts.find_nnunet(src)
    else:
        cases = openkbp.find_openkbp(src)
    return cases, LabelNames(ids, config.renamed), left_over


def _read(layout: str, case: SourceCase, anatomy: Anatomy, names: LabelNames) -> Labelled:
    read = openkbp.read_openkbp if layout == "openkbp" else layouts.read_labelled
    return clean(read(case, anatomy, names), anatomy)


def _survey(layout: str, anatomy: Anatomy, names: LabelNames, case: SourceCase) -> population.Survey | None:
    try:
        return population.survey(_read(layout, case, anatomy, names), anatomy)
    except GuideGenError:  # told of when it is prepared
        return None


def _measured(anatomy: Anatomy, surveys: Sequence[population.Survey]) -> Anatomy:
    if len(surveys) < population.MIN_PATIENTS:
        raise SourceError(
            f"the {anatomy.name} table has no usual places and sizes, and measuring them takes "
            f"{population.MIN_PATIENTS} readable training patients, got {len(surveys)}; add patients or use a table "
            f"that was measured."
        )
    return population.measured(anatomy, surveys)


def _numbered(cases: Sequence[SourceCase], augment: int) -> list[tuple[SourceCase, int, int]]:
    """(case, number of its first file in its split, files): copies are made of training cases only."""
    work, following = [], Counter[str]()
    for case in cases:
        count = 1 + (augment if case.split == "train" else 0)
        work.append((case, following[case.split], count))
        following[case.split] += count
    return work


def _prepare_one(
    out: Path, config: RealConfig, names: LabelNames, labelled: Collection[str], work: tuple[SourceCase, int, int]
) -> Done:
    """Makes the files of one case, then the note that it is done; nothing where all of these are there.

    A refused case has no files: it is tried again, and what it had before its source broke nobody vouches for.
    """
    case, first, count = work
    note = out / "cases" / f"{case.name}.json"
    files = [case_path(out / case.split, first + copy) for copy in range(count)]
    if note.exists() and all(path.exists() for path in files):
        return Done(case.name, case.split, "")
    anatomy = read_anatomy(out / "anatomy.yaml")
    about: dict[str, Any] = {"name": case.name, "patient": case.patient, "split": case.split, "refused": ""}
    try:
        source = _read(config.layout, case, anatomy, names)
        about |= _facts(source, anatomy)
        for copy, path in enumerate(files):
            rng = np.random.default_rng([config.seed, first + copy, len(case.split)])
            placed = place(source, anatomy, rng, Jitter()) if copy else place(source, anatomy)
            made, report = _described(placed, case, anatomy, labelled, rng)
            save_case(path, made, report)
            if not copy:
                about |= {"findings": made.findings.to_dict(), "report_read": "report" in case.told}
                about["area_cm2"] = round(body_area_cm2(placed.ct_hu, anatomy.spacing_mm), 1)
    except GuideGenError as error:
        about["refused"] = str(error)
        for path in files:
            path.unlink(missing_ok=True)
    write_text(note, json.dumps(about, indent=1))
    return Done(case.name, case.split, about["refused"])


def _described(
    placed: Placed, case: SourceCase, anatomy: Anatomy, labelled: Collection[str], rng: np.random.Generator
) -> tuple[TrainingCase, str]:
    """The training case and its report: the user's own, read by the abstraction, or one written of what is measured."""
    told = {k: v for k, v in case.told.items() if k != "report"}
    measured = describe(placed.ct_hu, placed.label_map, anatomy, told, labelled)
    report, findings = case.told.get("report", ""), measured
    if report:
        findings = _read_report(report, measured, told.get("region", ""), anatomy)
    else:
        report = library_for(anatomy.name).render(measured, rng)
    return TrainingCase(placed.label_map, placed.ct_hu, findings, case.name), report


def _read_report(report: str, measured: Findings, region: str, anatomy: Anatomy) -> Findings:
    """What a report says, and what is measured or told where it is silent or cannot be read.

    A `region` that is told is the file's, and a report may speak of more: lesions outside of it are not in the CT.
    """
    try:
        said = abstract_report(report, anatomy).findings
    except (ReportError, FindingsError):
        return measured
    silent = [k for k in ("phase", "sex", "age_decade", "habitus") if getattr(said, k) in ("", None)]
    region = region or said.region
    shown = tuple(x for x in said.lesions if x.organ in anatomy.region_organs[region])
    return replace(said, region=region, lesions=shown, **{k: getattr(measured, k) for k in silent})


def _facts(labelled: Labelled, anatomy: Anatomy) -> dict[str, Any]:
    measured = population.survey(labelled, anatomy)
    return {
        "spacing_mm": list(measured.spacing_mm),
        "extent_mm": list(measured.extent_mm),
        "volumes_ml": {k: round(v, 2) for k, v in measured.volumes_ml.items()},
        "mean_hu": {k: round(v, 1) for k, v in measured.mean_hu.items()},
        "centre_mm": [round(float(v), 1) for v in centre_of(labelled, anatomy)],
        "unmapped": list(labelled.unmapped),
        "num_cleared": labelled.num_cleared,
    }


def read_notes(out: Path) -> list[dict[str, Any]]:
    """What was measured of each case of a prepared folder, and why the refused ones were."""
    return [json.loads(path.read_text()) for path in sorted((out / "cases").glob("*.json"))]


def _write_refused(out: Path) -> None:
    refused = [{"name": n["name"], "why": n["refused"]} for n in read_notes(out) if n["refused"]]
    write_text(out / "refused.jsonl", "".join(json.dumps(line) + "\n" for line in refused))
