"""Findings with less to say of them, for prompts that must fit into a language encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from guidegen_data.reports.findings import Findings


def unsized(findings: Findings) -> Findings:
    """The findings as the prompt of stage 1 has them: without graded sizes, which it is told as numbers and held to.

    In words they do harm: most prompts of the training data that name the gallbladder say it was taken out, and one
    said to be enlarged came out as none.
    """
    return replace(findings, organs={k: v for k, v in findings.organs.items() if v not in ("enlarged", "small")})


def fitting_prompt(findings: Findings, fits: Callable[[str], bool]) -> str:
    """The prompt of the findings; where it does not fit, of as many of them as do; of the fewest where none does.

    Left out is what both stages are shown or held to in another way: graded sizes, then the smallest lesions but for
    one, then organs said to be absent.
    """
    prompt = ""
    for fewer in _ever_fewer(findings):
        if fits(prompt := fewer.prompt()):
            break
    return prompt


def _ever_fewer(findings: Findings) -> Iterator[Findings]:
    yield findings
    findings = unsized(findings)
    yield findings
    while len(findings.lesions) > 1:  # without any the prompt would say that there is none
        smallest = min(range(len(findings.lesions)), key=lambda k: findings.lesions[k].size_mm)
        kept = [lesion for k, lesion in enumerate(findings.lesions) if k != smallest]
        findings = replace(findings, lesions=tuple(kept))
        yield findings
    organs = dict(findings.organs)
    while organs:
        organs.popitem()
        yield replace(findings, organs=organs)
