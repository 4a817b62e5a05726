"""What case i is: its findings, text and seeds from (seed, i) alone, in fixed blocks, with rejects made anew."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.case import Case, Draft
from guidegen_data.errors import ShardError
from guidegen_data.quality import verdict, verdict_before_ct
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.sampling import Mode, sample_findings
from guidegen_data.reports.templates import library_names, load_templates
from guidegen_data.shards.manifest import Recipe, case_meta, key_of, to_json

ATTEMPTS_PER_REPORT = 3
MAX_ATTEMPTS = 24
_log = logging.getLogger(__name__)


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

    def complete(self, drafts: Sequence[Draft], *, num_steps_ct: int | None = None) -> list[Case]:
        """The drafts with their CTs: the same cases as `generate` makes in one go."""


@dataclass(frozen=True)
class Request:
    """What a case is asked to show, and in which words."""

    findings: Findings
    report: str


class ReportSource:
    """Requests by case index: the user's reports in turns, or sampled findings worded by the templates."""

    def __init__(self, recipe: Recipe, anatomy: Anatomy) -> None:
        """ReportError or FindingsError when a report or the template library cannot be used."""
        self._seed, self._anatomy, self._sampling = recipe.seed, anatomy, cast(Mode, recipe.sampling)
        self._findings = findings_of_reports(recipe, anatomy)
        self._reports = recipe.reports
        self._templates = None if recipe.reports else load_templates(recipe.templates)

    def request(self, index: int, draw: int = 0) -> Request:
        """What case `index` is asked to show; each further `draw` samples other findings. Pure."""
        if self._templates is None:
            turn = index % len(self._reports)
            return Request(self._findings[turn], self._reports[turn])
        findings = sample_findings(
            _generator(self._seed, "findings", index, draw), self._anatomy, self._sampling, index
        )
        return Request(findings, self._templates.render(findings, _generator(self._seed, "words", index, draw)))


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
) -> Recipe:
    """The recipe of cases by this generator. `device` is the kind; `templates` default to those of the anatomy.

    `readings` are what the chat model `abstractor` read in the reports.
    """
    templates = "" if reports else templates or generator.anatomy.name
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
    )


def generate_block(
    generator: CaseGenerator, recipe: Recipe, source: ReportSource, block: int, num_cases: int | None = None
) -> list[Case]:
    """The cases of a block, each with its whole metadata as `provenance`.

    The batch is always whole; cases from index `num_cases` on are then left out, which costs the last block of a run a
    little time and makes case i the same in runs of every length. Raises ShardError when a case is rejected again and
    again.
    """
    indices = range(block * recipe.block_size, (block + 1) * recipe.block_size)
    trials = [_Trial(recipe, source, index) for index in indices]
    settled = [t for t in trials if num_cases is None or t.index < num_cases]
    cases = dict(zip(indices, _generate(generator, recipe, trials, settled), strict=True))
    return [_settle(generator, recipe, trial, cases[trial.index]) for trial in settled]


def derive_seed(seed: int, purpose: str, index: int, draw: int) -> int:
    """A seed below 2^63 for one purpose of one case, independent of every other."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{index}/{draw}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class _Trial:
    """One case on its way: which attempt it is at, what that asks for, and the attempts that were rejected."""

    def __init__(self, recipe: Recipe, source: ReportSource, index: int) -> None:
        self.index, self.key, self.attempt = index, key_of(index), 0
        self.rejects: list[dict[str, Any]] = []
        self._recipe, self._source = recipe, source

    @property
    def request(self) -> Request:
        return self._source.request(self.index, self.attempt // ATTEMPTS_PER_REPORT)

    @property
    def case_seed(self) -> int:
        return derive_seed(self._recipe.seed, "case", self.index, self.attempt)

    def reject(self, quality: Mapping[str, Any], found: str) -> None:
        """On to the next attempt, the reason noted. ShardError when there were enough."""
        failed = [check for check in quality["checks"] if not check["pass"]]
        attempt = {"key": self.key, "attempt": self.attempt, "case_seed": self.case_seed}
        self.rejects.append({**attempt, "found_in": found, "failed": failed})
        _log.info("case %s rejected: %s", self.key, ", ".join(check["name"] for check in failed))
        self.attempt += 1
        if self.attempt >= MAX_ATTEMPTS:
            raise ShardError(
                f"case {self.key} failed its quality checks {MAX_ATTEMPTS} times (last: {failed[0]['name']} is "
                f"{failed[0]['value']}, allowed {failed[0]['allowed']}); use a better model or another report, or add "
                f"--no-qc to keep such cases with their verdict."
            )


def _settle(generator: CaseGenerator, recipe: Recipe, trial: _Trial, case: Case) -> Case:
    # A rejected case is made anew alone, so that what it becomes does not depend on the rest of its block.
    while not (quality := verdict(case))["passed"] and recipe.quality_control:
        trial.reject(quality, "CT")
        (case,) = _generate(generator, recipe, [trial], [trial])
    meta = case_meta(case, recipe, trial.index, trial.attempt, trial.case_seed, quality, trial.rejects)
    return replace(case, provenance=meta)


def _generate(
    generator: CaseGenerator, recipe: Recipe, trials: Sequence[_Trial], wanted: Sequence[_Trial]
) -> list[Case]:
    """A case for each trial. Where label maps come first, none of the wanted that fails its checks gets a CT."""
    if not isinstance(generator, TwoStageGenerator):
        return generator.generate(
            *_lists(trials),
            num_steps_mask=recipe.num_steps_mask,
            num_steps_ct=recipe.num_steps_ct,
            guidance=recipe.guidance,
        )
    settings: dict[str, Any] = {"num_steps_mask": recipe.num_steps_mask, "guidance": recipe.guidance}
    drafts = generator.draft(*_lists(trials), **settings)
    for place, trial in enumerate(trials if recipe.quality_control else ()):
        while trial in wanted and not (quality := verdict_before_ct(drafts[place]))["passed"]:
            trial.reject(quality, "label map")
            (drafts[place],) = generator.draft(*_lists([trial]), **settings)
    return generator.complete(drafts, num_steps_ct=recipe.num_steps_ct)


def _lists(trials: Sequence[_Trial]) -> tuple[list[Findings], list[str], list[str], list[int]]:
    requests = [trial.request for trial in trials]
    asked, told = [r.findings for r in requests], [r.report for r in requests]
    return asked, told, [t.key for t in trials], [t.case_seed for t in trials]


def _generator(seed: int, purpose: str, index: int, draw: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, purpose, index, draw))


def _templates_sha256(name_or_path: str) -> str:
    # A library that comes with the package is told by the package version; a user's own file by its bytes.
    if not name_or_path or name_or_path in library_names():
        return ""
    load_templates(name_or_path)
    return hashlib.sha256(Path(name_or_path).read_bytes()).hexdigest()
