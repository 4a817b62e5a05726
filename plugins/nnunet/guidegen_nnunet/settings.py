"""The settings of a mixed training, read from the environment in this one place."""

from __future__ import annotations

import os
from dataclasses import dataclass

from guidegen_nnunet.folders import NnUNetError

FRACTION = "GUIDEGEN_NNUNET_FRACTION"


@dataclass(frozen=True)
class Settings:
    """`fraction` is the share of every training batch that is drawn from synthetic cases, 0 to 1."""

    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise NnUNetError(f"expected a fraction from 0 to 1 in {FRACTION}, got {self.fraction:g}; set it again.")

    @classmethod
    def from_environment(cls) -> Settings:
        """Settings as the environment says, defaults elsewhere; NnUNetError for a value that is no fraction."""
        text = os.environ.get(FRACTION)
        if text is None:
            return cls()
        try:
            return cls(float(text))
        except ValueError as error:
            if isinstance(error, NnUNetError):
                raise
            raise NnUNetError(f"expected a fraction from 0 to 1 in {FRACTION}, got {text!r}; set it again.") from None
