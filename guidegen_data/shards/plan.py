"""What case i is asked to be: its findings, text and seeds from (seed, i) alone; and who makes such cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.case import Case, Draft
from guidegen_data.errors import ShardError
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.sampling import Mode, sample_findings
from guidegen_data.reports.templates import library_for, library_names, load_templates
from guidegen_data.shards.manifest import Recipe, to_json


class CaseGenerator(Protocol):
    """What makes cases from findings: GuideGenPipeline, or anything that behaves like it."""

    @property
    def anatomy(self) -> Anatomy: ...

    @property
    def fingerprint(self) -> str:
        """sha256 of configuration and weights."""

    def generate(
        self,
        findings: Sequence[Findings],
        reports: Sequence[str],
        keys: Sequence[str],
        seeds: Sequence[int],
        *,
        num_steps_mask: int | None = None,
        num_steps_ct: int | None = None,
        guidance: float | None = None,
    ) -> list[Case]:
        """One case for each entry, advanced in lockstep; each depends on its own seed."""


@runtime_checkable
class TwoStageGenerator(Protocol):
    """A CaseGenerator whose label maps can be judged before the time for their CTs is spent."""

    def draft(
        self,
        findings: Sequence[Findings],
        reports: Sequence[str],
        keys: Sequence[str],
        seeds: Sequence[int],
        *,
        num_steps_mask: int | None = None,
        guidance: float | None = None,
    ) -> list[Draft]:
        """One label map for each entry."""

    def complete(
        self, drafts: Sequence[Draft], *, num_steps_ct: int | None = None, seeds: Sequence[int] | None = None
    ) -> list[Case]:
        """The drafts with their CTs: the same cases as `generate` makes in one go, or other CTs by `seeds`."""


@dataclass(frozen=True)
class Request:
    """What a case is asked to show, and in which words."""

    findings: Findings
    report: str


class ReportSource:
    """Requests by case index: the user's reports in turns, or sampled findings worded by the templates."""

    def __init__(self, recipe: Recipe, anatomy: Anatomy) -> None:
        """ReportError or FindingsError when a report or the template library cannot be used.

        ShardError when the template file is not the one of the recipe any more.
        """
        self._seed, self._anatomy, self._sampling = recipe.seed, anatomy, cast(Mode, recipe.sampling)
        self._findings = findings_of_reports(recipe, anatomy)
        self._reports = recipe.reports
        self._templates = None if recipe.reports else load_templates(recipe.templates)
        if _templates_sha256(recipe.templates) != recipe.templates_sha256:
            raise ShardError(
                f"the template file {recipe.templates} is not the one that these cases were worded by; put that one "
                f"back."
            )

    def request(self, index: int, draw: int = 0) -> Request:
        """What case `index` is asked to show; each further `draw` samples other findings. Pure."""
        if self._templates is None:
            turn = index % len(self._reports)
            return Request(self._findings[turn], self._reports[turn])
        findings = sample_findings(
            _generator(self._seed, "findings", index, draw), self._anatomy, self._sampling, index
        )
        return Request(findings, self._templates.render(findings, _generator(self._seed, "words", index, draw)))

    def restyled(self, request: Request, index: int, draw: int = 0) -> Request:
        """A sampled request in a contrast phase drawn for case `index`, reworded; a user's own report stays. Pure."""
        if self._templates is None:
            return request
        other = sample_findings(_generator(self._seed, "style", index, draw), self._anatomy, self._sampling, index)
        findings = replace(request.findings, phase=other.phase)
        return Request(findings, self._templates.render(findings, _generator(self._seed, "style words", index, draw)))


def findings_of_reports(recipe: Recipe, anatomy: Anatomy) -> list[Findings]:
    """What each report of the user's asks for: the readings of the recipe, else what the rules read.

    ReportError or FindingsError when a report cannot be used.
    """
    if recipe.abstractor:
        return [Findings.from_dict(json.loads(reading)) for reading in recipe.readings]
    return [abstract_report(text, anatomy).findings for text in recipe.reports]


def make_recipe(
    generator: CaseGenerator,
    *,
    device: str = "cpu",
    seed: int = 0,
    templates: str | None = None,
    sampling: str = "prevalence",
    reports: Sequence[str] = (),
    num_steps_mask: int | None = None,
    num_steps_ct: int | None = None,
    guidance: float | None = None,
    quality_control: bool = True,
    abstractor: str = "",
    readings: Sequence[Findings] = (),
    styles: int = 1,
    compiled: bool = False,
) -> Recipe:
    """The recipe of cases by this generator. `device` is the kind; `templates` default to those of the anatomy,
    the torso's where it has none.

    `readings` are what the chat model `abstractor` read in the reports. ShardError for several `styles` of a generator
    that has no label maps to give them, for networks that shall be `compiled` of one that has none, and for more steps
    of the mask than a model can take.
    """
    if styles > 1 and not isinstance(generator, TwoStageGenerator):
        raise ShardError("several styles of a label map need a model of two stages; leave styles at 1.")
    if compiled and not hasattr(generator, "compile"):
        raise ShardError("this model has no networks to compile; leave --compile out.")
    most = getattr(generator, "most_steps_mask", None)
    if most is not None and num_steps_mask is not None and num_steps_mask > most:
        raise ShardError(f"this model takes {most} steps of the mask at the most, got {num_steps_mask}; give fewer.")
    templates = "" if reports else templates or library_for(generator.anatomy.name).name
    return Recipe(
        model_sha256=generator.fingerprint,
        anatomy=generator.anatomy.name,
        device=device,
        templates=templates,
        templates_sha256=_templates_sha256(templates),
        sampling=sampling,
        seed=seed,
        reports=tuple(reports),
        num_steps_mask=num_steps_mask,
        num_steps_ct=num_steps_ct,
        guidance=guidance,
        quality_control=quality_control,
        abstractor=abstractor,
        readings=tuple(to_json(findings.to_dict()) for findings in readings),
        styles=styles,
        compiled=compiled,
    )


def derive_seed(seed: int, purpose: str, index: int, draw: int) -> int:
    """A seed below 2^63 for one purpose of one case, independent of every other."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{index}/{draw}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _generator(seed: int, purpose: str, index: int, draw: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, purpose, index, draw))


def _templates_sha256(name_or_path: str) -> str:
    # A library that comes with the package is told by the package version; a user's own file by its bytes.
    if not name_or_path or name_or_path in library_names():
        return ""
    load_templates(name_or_path)
    return hashlib.sha256(Path(name_or_path).read_bytes()).hexdigest()
