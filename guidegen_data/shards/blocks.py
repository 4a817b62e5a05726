"""Cases in fixed blocks: drawn, judged, and made anew where they are rejected."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from guidegen_data.case import Case, Draft
from guidegen_data.errors import ShardError
from guidegen_data.quality import verdict, verdict_before_ct
from guidegen_data.reports.findings import Findings
from guidegen_data.shards.generators import arithmetic
from guidegen_data.shards.manifest import Recipe, key_of
from guidegen_data.shards.plan import CaseGenerator, ReportSource, Request, TwoStageGenerator, derive_seed

ATTEMPTS_PER_REPORT = 3
MAX_ATTEMPTS = 24
_log = logging.getLogger(__name__)


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


class _Trial:
    """One case on its way: what it asks for now, and the attempts that were rejected.

    Where a label map has several styles, the cases of a group share its first draft that passes. A CT that fails is
    then made anew on the same label map first, and only after some on one of its own.
    """

    def __init__(self, recipe: Recipe, source: ReportSource, index: int) -> None:
        self.index, self.key = index, key_of(index)
        self.group, self.style = divmod(index, recipe.styles)
        self.draw = 0  # of the label map
        self.alone = False  # with that draw: its group shows another label map
        self.rejects: list[dict[str, Any]] = []
        self._recipe, self._source = recipe, source

    @property
    def request(self) -> Request:
        """What the label map is drawn for."""
        return self._source.request(self.group, self.draw // ATTEMPTS_PER_REPORT)

    @property
    def shown(self) -> Request:
        """What the case is to show: the same in its own style."""
        request = self.request
        return self._source.restyled(request, self.index, len(self.rejects)) if self.style else request

    @property
    def label_map(self) -> str:
        """The same for all cases that show one label map: the first key of their group, for another draw with it."""
        first = key_of(self.group * self._recipe.styles)
        return f"{first}-{self.draw}" if self.alone else first

    @property
    def case_seed(self) -> int:
        return derive_seed(self._recipe.seed, "case", self.group, self.draw)

    @property
    def style_seed(self) -> int:
        return derive_seed(self._recipe.seed, "style", self.index, len(self.rejects))

    def reject(self, quality: Mapping[str, Any], found_in: str) -> None:
        """On to the next attempt, the reason noted. ShardError when there were enough."""
        failed = [check for check in quality["checks"] if not check["pass"]]
        attempt = {"key": self.key, "attempt": len(self.rejects), "case_seed": self.case_seed}
        self.rejects.append({**attempt, "found_in": found_in, "failed": failed})
        _log.info("case %s rejected: %s", self.key, ", ".join(check["name"] for check in failed))
        num_cts = sum(r["found_in"] == "CT" for r in self.rejects)
        if found_in != "CT" or self._recipe.styles == 1 or num_cts % ATTEMPTS_PER_REPORT == 0:
            self.draw += 1
            self.alone |= found_in == "CT"
        if len(self.rejects) >= MAX_ATTEMPTS:
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
    if known := arithmetic(generator):
        case = replace(case, provenance={**case.provenance, "arithmetic": known})
    meta = _meta(case, recipe, trial.index, len(trial.rejects), trial.case_seed, quality, trial.rejects)
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
    draw = _draw_once(generator, recipe) if recipe.styles > 1 else _draw_together(generator, recipe)
    drafts = draw(trials)
    for place, trial in enumerate(trials if recipe.quality_control else ()):
        while trial in wanted and not (quality := verdict_before_ct(drafts[place]))["passed"]:
            trial.reject(quality, "label map")
            (drafts[place],) = draw([trial])
    seeds = [t.style_seed for t in trials] if recipe.styles > 1 else None
    return generator.complete(drafts, num_steps_ct=recipe.num_steps_ct, seeds=seeds)


def _draw_together(generator: TwoStageGenerator, recipe: Recipe) -> Callable[[Sequence[_Trial]], list[Draft]]:
    def draw(trials: Sequence[_Trial]) -> list[Draft]:
        return generator.draft(*_lists(trials), num_steps_mask=recipe.num_steps_mask, guidance=recipe.guidance)

    return draw


def _draw_once(generator: TwoStageGenerator, recipe: Recipe) -> Callable[[Sequence[_Trial]], list[Draft]]:
    """Each group's label map by itself, so that it is the same in whatever blocks its cases lie, each under the name
    and the report of its case."""
    together, drawn = _draw_together(generator, recipe), dict[tuple[int, int], Draft]()

    def draw(trials: Sequence[_Trial]) -> list[Draft]:
        drafts = []
        for t in trials:
            if (t.group, t.draw) not in drawn:
                (drawn[t.group, t.draw],) = together([t])
            draft, shown = drawn[t.group, t.draw], t.shown
            style = {"style": t.style, "style_seed": t.style_seed, "label_map_of": t.label_map}
            provenance = {**draft.provenance, **style}
            drafts.append(
                replace(draft, key=t.key, report=shown.report, findings=shown.findings, provenance=provenance)
            )
        return drafts

    return draw


def _lists(trials: Sequence[_Trial]) -> tuple[list[Findings], list[str], list[str], list[int]]:
    requests = [trial.request for trial in trials]
    asked, told = [r.findings for r in requests], [r.report for r in requests]
    return asked, told, [t.key for t in trials], [t.case_seed for t in trials]


def _meta(
    case: Case, recipe: Recipe, index: int, attempt: int, case_seed: int, quality: dict, rejects: Sequence[dict]
) -> dict[str, Any]:
    """KEY.meta.json: where the case comes from, what is in it and how it was judged. A function of its arguments."""
    return {
        "key": case.key,
        "index": index,
        "seed": recipe.seed,
        "case_seed": case_seed,
        "attempt": attempt,
        "anatomy": case.anatomy.name,
        "label_table": {str(c.id): c.name for c in case.anatomy.classes},
        "findings": case.findings.to_dict(),
        "prompt": case.findings.prompt(),
        "shape": list(case.ct_hu.shape),
        "spacing_mm": list(case.spacing_mm),
        "volumes_ml": case.volumes_ml(),
        "quality": quality,
        "rejects": list(rejects),
        "generation": dict(case.provenance),
        "recipe_sha256": recipe.sha256,
        "model_sha256": recipe.model_sha256,
        "package_version": recipe.package_version,
    }
