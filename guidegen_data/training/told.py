"""What a case's prompts become in training: the tokens that the same findings have when a model is asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from guidegen_data.errors import ModelError
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.findings import Findings


def tokens_of(encoder: TextEncoder, told: Sequence[Findings], case: Path) -> np.ndarray:
    """Tokens (V, L, D) float16 of V versions of a case's findings, shortened where they are too long.

    ModelError naming the case where they cannot be.
    """
    try:
        return encoder([encoder.prompt_of(findings) for findings in told]).half().numpy()
    except ModelError as error:
        raise ModelError(f"{case}: {error}") from error
