"""Findings as named numbers: what stage 1 is told beside the text, one entry a fact, 0 where nothing is stated.

The names are stored with a model, so that a vocabulary that grows later does not change what a trained model reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guidegen_data.anatomy import HABITUS, Anatomy
from guidegen_data.errors import FindingsError
from guidegen_data.reports.findings import SEXES, Findings

#: A lesion of this diameter has the value 1.
_UNIT_MM = 50.0


def field_names(anatomy: Anatomy) -> tuple[str, ...]:
    """Every fact a model of this anatomy can be told: 'stated', 'region=...', 'liver=enlarged', 'lesion=liver/...'."""
    return (
        "stated",
        *(f"region={r}" for r in anatomy.regions),
        *(f"sex={s}" for s in SEXES),
        *(f"habitus={h}" for h in HABITUS),
        *(f"{o.name}={s}" for o in anatomy.organs for s in o.statuses if s != "normal"),
        *(f"lesion={o.name}/{site}" for o in anatomy.organs for site in o.sites),
    )


def field_values(findings: Findings, names: Sequence[str]) -> np.ndarray:
    """(F,) float32: 1 for a fact that holds, the largest diameter / 50 mm for a lesion's place, else 0.

    Raises FindingsError for a name that no fact of this anatomy has.
    """
    facts = dict.fromkeys(field_names(findings.anatomy), 0.0)
    if unknown := [n for n in names if n not in facts]:
        raise FindingsError(f"the {findings.anatomy_name} vocabulary has no facts {unknown[:3]}; use a matching model.")
    held = {"stated", f"region={findings.region}", f"sex={findings.sex}", f"habitus={findings.habitus}"}
    held |= {f"{organ}={status}" for organ, status in findings.organs.items()}
    for name in held & set(facts):
        facts[name] = 1.0
    for lesion in findings.lesions:
        place = f"lesion={lesion.organ}/{lesion.site}"
        facts[place] = max(facts[place], lesion.size_mm / _UNIT_MM)
    return np.array([facts[n] for n in names], np.float32)
