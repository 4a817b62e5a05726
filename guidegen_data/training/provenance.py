"""What a run was trained on and how it went, kept in its folder and told in the card of the model it becomes."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import ModelError
from guidegen_data.sources.bases import ct_paths, is_raw
from guidegen_data.sources.prepared import case_paths, cases_digest, training_paths, validation_folder, write_text
from guidegen_data.training.beside import same_table
from guidegen_data.training.initial import OF_STAGE, Initial, initial_digest
from guidegen_data.training.run_state import has_state

#: In a run's folder.
FILE_NAME = "about.json"
#: How far a run has come that another one uses.
_PROGRESS = {"steps", "best_step", "validation"}
#: What runs of an earlier version did not note: they know their data by its folder's name.
_NOTED_LATER = {"cases_sha256", "left_out"}
#: The same, each by itself: what such a run was begun with is not known.
_ALSO_LATER = {"started_from_sha256", "adversarial"}
#: Runs beside this one. Earlier versions noted some that were not used; what slices use their latents tell.
_BESIDE = ("autoencoder", "tissue")
#: What a fact is given by on the command line, where not by the data.
_GIVEN_BY = {
    "recipe": "--recipe",
    "started_from": "--init",
    "started_from_sha256": "--init",
    "left_out": "--leave-out",
    "autoencoder": "--autoencoder",
    "tissue": "--tissue",
    "distilled_from_steps": "--distil",
    "adversarial": "--adversarial",
    "thin_weight": "--thin-weight",
    "redrawn_by": "--redrawn-by",
    "redrawn_by_sha256": "--redrawn-by",
}


def data_facts(folder: Path, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Name of a data folder, what tells its cases from others, what was left out of training, and of a prepared one its
    source, layout, and patients a split, refused cases left out.

    And of a completed one which organs were drawn where they were missing, in how many files, and how well. SourceError
    for a folder without cases, and for names to leave out that it does not have.
    """
    facts: dict[str, Any] = {"data": folder.resolve().name, "cases_sha256": _digest(folder, leave_out)}
    facts["left_out"] = sorted(set(leave_out))
    if (folder / "prepared.json").exists():
        held = json.loads((folder / "prepared.json").read_text())
        facts |= {k: held[k] for k in ("source", "layout") if k in held}
    if (folder / "split.csv").exists():
        refused = folder / "refused.jsonl"
        lines = refused.read_text().splitlines() if refused.exists() else []
        not_used = {json.loads(line)["name"] for line in lines}
        facts["refused"] = len(not_used)
        not_used |= set(leave_out)
        with open(folder / "split.csv", encoding="utf-8", newline="") as file:
            kept = {(r["patient"], r["split"]) for r in csv.DictReader(file) if r["case"] not in not_used}
        facts["patients"] = dict(Counter(split for _, split in kept))
    if (folder / "completed.json").exists():
        told = json.loads((folder / "completed.json").read_text())
        facts["completed"] = {k: told[k] for k in ("files", "classes")}
    return facts


def _digest(folder: Path, leave_out: Sequence[str]) -> str:
    """The same for the same data wherever it lies: of the checksums of cases, or of the names and sizes of raw CTs."""
    if is_raw(folder):
        sizes = [(name, path.stat().st_size) for name, path in ct_paths(folder, leave_out).items()]
        return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
    held = validation_folder(folder)
    return cases_digest([*training_paths(folder, leave_out), *(case_paths(held) if held else ())])


def about_run(
    stage: str,
    recipe: str,
    anatomy: Anatomy,
    data: Path,
    initial: str | None = None,
    leave_out: Sequence[str] = (),
    autoencoder: Path | None = None,
    tissue: Path | None = None,
    distil: int = 0,
    adversarial: float = 0.0,
    redrawn_by: str | None = None,
    thin_weight: float = 0.0,
) -> dict[str, Any]:
    """What a run of a stage is trained on and starts from, and how the networks that it takes over were trained.

    With `distil` also that it learns from what the model it starts from makes in so many steps; of a decoder also the
    weight of its discriminator, 0 for none, and of detail the model whose stage 1 redraws its label maps, of stage 1
    the weight of thin parts. ModelError where the model to start from has no part for this stage.
    """
    # The name alone: a card is copied to others, and where a folder lay is nobody's business.
    about = {"recipe": recipe, "started_from": initial and Path(initial).name, **data_facts(data, leave_out)}
    about |= {"started_from_sha256": initial_digest(initial, OF_STAGE[stage])} if initial else {}
    about |= {"distilled_from_steps": distil} if distil else {}
    about |= {"adversarial": adversarial} if stage == "decoder" else {}
    about |= {"thin_weight": thin_weight} if thin_weight else {}
    if redrawn_by:
        about["redrawn_by"] = Path(redrawn_by).name
        about["redrawn_by_sha256"] = initial_digest(redrawn_by, Initial.MASKS)
    taken_over = _json(Path(initial) / FILE_NAME) if initial and stage == "slices" else {}
    if initial and not same_table(initial, anatomy):
        taken_over.pop("tissue", None)  # those are around other classes: these slices are told of none
    about |= {name: taken_over[name] for name in _BESIDE if name in taken_over}  # of the slices it starts from
    return about | {name: run_facts(run) for name, run in (("autoencoder", autoencoder), ("tissue", tissue)) if run}


def check_about(run: Path, about: Mapping[str, Any]) -> None:
    """ModelError where a run that has a state was begun with anything else, as far as it noted that."""
    held = _json(run / FILE_NAME)
    if held and has_state(run) and (others := _differing(held, about)):
        told = dict.fromkeys(_GIVEN_BY.get(name, "data") for name in others)
        if "--leave-out" in told:
            told.pop("data", None)  # the same data, of which others are left
        raise ModelError(
            f"{run} was begun with other {' and '.join(told)}; give the same as then, or another run folder."
        )


def write_about(run: Path, about: Mapping[str, Any]) -> None:
    """Notes in a run's folder what it is trained on; for one that has a state what it noted then stands."""
    if not has_state(run):
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / FILE_NAME, json.dumps(about, indent=1))


def _differing(held: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the facts in which a run is another than the one that was begun; of a run that it uses likewise."""
    names = (held.keys() | now.keys()) - _PROGRESS
    names -= {"data"} if "cases_sha256" in held else _NOTED_LATER
    names -= _ALSO_LATER - held.keys()

    def differs(name: str) -> bool:
        before, after = held.get(name), now.get(name)
        if name in _BESIDE and before:
            return bool(after and _differing(before, after))
        return before != after

    return sorted(filter(differs, names))


def run_facts(run: Path, checkpoint: str = "best") -> dict[str, Any]:
    """Recipe and data of a run as far as it noted them, its steps, and its best validation; with the checkpoint 'last'
    that of its last step, where it has one."""
    about, config = _json(run / FILE_NAME), _json(run / "config.json")
    facts = {k: v for k, v in about.items() if k not in _BESIDE}
    if config:
        facts["examples_a_step"] = config.get("batch_size", 1) * config.get("accumulate", 1)
    if steps := read_lines(run / "log.jsonl"):
        facts["steps"] = steps[-1]["step"] + 1
    validated = read_lines(run / "validation.jsonl")
    if checkpoint == "last":
        facts["checkpoint"] = "last"
        validated = [line for line in validated if line["step"] + 1 == facts.get("steps")]
    elif validated := [line for line in validated if line.get("best")]:
        facts["best_step"] = validated[-1]["step"] + 1
    if validated:
        facts["validation"] = {k: v for k, v in validated[-1].items() if k not in ("step", "best")}
    return facts


def model_card(
    name: str,
    anatomy: Anatomy,
    masks: Path,
    slices: Path,
    licence: str,
    decoder: Path | None = None,
    detail: Path | None = None,
    checkpoint: str = "best",
) -> str:
    """Markdown of the card of a model made of that checkpoint of two runs, or more with a decoder or detail. A function
    of their folders."""
    beside = _json(slices / FILE_NAME)
    runs = {
        "autoencoder": beside.get("autoencoder", {}),
        "masks": run_facts(masks, checkpoint),
        **({} if detail is None else {"detail": run_facts(detail, checkpoint)}),
        **({"tissue": beside["tissue"]} if "tissue" in beside else {}),
        "slices": run_facts(slices, checkpoint),
        **({} if decoder is None else {"decoder": run_facts(decoder, checkpoint)}),
    }
    data = runs["slices"] if "data" in runs["slices"] else runs["masks"]
    x, y, z = anatomy.shape
    sections = [
        f"# {name}: CT volumes and label maps from report text",
        "A GuideGen model of guidegen-data: categorical diffusion of a label map, then latent flow matching of CT "
        "slices. What it makes is synthetic; not for clinical use.",
        f"## Field and classes\n\n{x} x {y} x {z} voxels of {' x '.join(f'{mm:g}' for mm in anatomy.spacing_mm)} mm, "
        f"{anatomy.num_classes} classes of the {anatomy.name} table: {', '.join(c.name for c in anatomy.classes)}. "
        f"Lesion class: {anatomy.lesion_class}.{_loose(slices)}",
        "## Data\n\n" + _data(data),
        "## Training\n\n" + "\n".join(["| stage | recipe | steps | best validation |", "|---|---|---|---|",
                                         *(_row(stage, facts) for stage, facts in runs.items())]),
        "## Licence\n\n" + (licence or "Not stated. The licence of the training data decides what may be done."),
    ]  # fmt: skip
    return "\n\n".join(sections) + "\n"


def tissue_facts(slices: Path) -> dict[str, Any]:
    """What a run of slices noted of the tissues that it was told of."""
    return dict(_json(slices / FILE_NAME).get("tissue", {}))


def with_stage(card: str, stage: str, facts: dict[str, Any]) -> str:
    """The card of a model with one more stage, of whose run these are facts: its row after the last one of the table of
    stages, or in a table of its own where the card has none."""
    row, head = _row(stage, facts), "| stage | recipe | steps | best validation |"
    lines = [line for line in card.splitlines() if not line.startswith(f"| {stage} |")]
    if head in lines:
        last = lines.index(head)
        while last + 1 < len(lines) and lines[last + 1].startswith("|"):
            last += 1
        return "\n".join([*lines[: last + 1], row, *lines[last + 1 :]]) + "\n"
    return "\n".join([*lines, "", f"## Added: {stage}", "", head, "|---|---|---|---|", row]).lstrip("\n") + "\n"


def _loose(slices: Path) -> str:
    loose = _json(slices / "model" / "config.json").get("loose_tissues", False)
    return " Tissues of a label map are those of its CT, cut out by HU: slices draw their detail." if loose else ""


def _data(facts: dict[str, Any]) -> str:
    if "data" not in facts:
        return "The runs did not note what they were trained on."
    source = (
        f"{facts['source']} ({facts['layout']} layout)" if "layout" in facts else facts.get("source", facts["data"])
    )
    if "patients" not in facts:
        return f"{source}."
    counts = facts["patients"]
    return (
        f"{source}: {counts.get('train', 0)} patients trained on, {counts.get('validation', 0)} kept apart for "
        f"validation, split by patient; {facts['refused']} cases refused.{_completed(facts)}"
    )


def _completed(facts: dict[str, Any]) -> str:
    if "completed" not in facts:
        return ""
    told = []
    for name, of in facts["completed"]["classes"].items():
        dice = of["held_out_dice"]
        how_well = f"Dice {sum(dice) / len(dice):.2f} in {len(dice)} held-out patients" if dice else "not measured"
        told.append(f"{name} ({of['drawn_in_files']} files, {how_well})")
    return (
        f" Organs that planners had left out were drawn by `guidegen complete` in some of the "
        f"{facts['completed']['files']} files, warped copies counted: {', '.join(told)}."
    )


def _row(stage: str, facts: dict[str, Any]) -> str:
    started = f", from {facts['started_from']}" if facts.get("started_from") else ""
    if distilled := facts.get("distilled_from_steps"):
        started += f", which it copies in fewer than its {distilled} steps a slice"
    if weight := facts.get("adversarial"):
        started += f", beside a discriminator of weight {weight:g}"
    if weight := facts.get("thin_weight"):
        started += f", thin parts counted {1 + weight:g} times"
    if redrawn_by := facts.get("redrawn_by"):
        started += f", on label maps redrawn by {redrawn_by}"
    if left_out := facts.get("left_out"):
        started += f", without {', '.join(left_out)}"
    steps = f"{facts['steps']} of {facts['examples_a_step']}" if {"steps", "examples_a_step"} <= set(facts) else "?"
    figures = ", ".join(f"{k} {v:.4g}" for k, v in facts.get("validation", {}).items())
    best = f"{figures} (step {facts.get('best_step', facts.get('steps'))})" if figures else "not validated"
    best += ", the last weights" if facts.get("checkpoint") == "last" else ""
    return f"| {stage} | {facts.get('recipe', '?')}{started} | {steps} | {best} |"


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
