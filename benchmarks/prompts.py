"""Prompts that training never saw: reports rendered from sampled findings, and paraphrases written by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import GuideGenError
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.sampling import sample_findings
from guidegen_data.reports.templates import load_templates


@dataclass(frozen=True)
class Prompt:
    """A report, what it truly says, and what the abstraction understood, None where it refused the report; `by_hand`
    tells the two kinds apart."""

    text: str
    truth: Findings
    understood: Findings | None
    by_hand: bool


def held_out_prompts(num: int, seed: int, anatomy: Anatomy) -> list[Prompt]:
    """`num` prompts with a lesion each, every second one by hand while those last; a function of `seed` alone."""
    from benchmarks.paraphrases import load_paraphrases

    by_hand = [(text, truth) for text, truth in load_paraphrases() if truth.lesions and truth.anatomy is anatomy]
    np.random.default_rng(seed).shuffle(by_hand)
    library = load_templates(anatomy.name)
    prompts: list[Prompt] = []
    for i in range(num):
        if i % 2 and i // 2 < len(by_hand):
            text, truth = by_hand[i // 2]
        else:
            rng = np.random.default_rng([seed, i])
            truth = sample_findings(rng, anatomy, mode="coverage", index=sum(not p.by_hand for p in prompts))
            text = library.render(truth, rng)
        try:
            understood = abstract_report(text, anatomy).findings
        except GuideGenError:
            understood = None
        prompts.append(Prompt(text, truth, understood, bool(i % 2 and i // 2 < len(by_hand))))
    return prompts
