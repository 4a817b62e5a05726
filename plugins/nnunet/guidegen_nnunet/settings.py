"""The settings of a training with synthetic cases, read from the environment in this one place."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import Any

from guidegen_nnunet.folders import NnUNetError

PREFIX = "GUIDEGEN_NNUNET_"
FRACTION = PREFIX + "FRACTION"


@dataclass(frozen=True)
class Settings:
    """What a user may set; each field is read from GUIDEGEN_NNUNET_ + its name in capitals.

    `fraction` is the share of every training batch that is synthetic; a schedule goes from `fraction_start` in the
    first epoch to `fraction_end` in the last. `epochs` 0 keeps the baseline's number, `pretrain_share` is how much of
    them a pre-training takes. `model`, `seed`, `device`, `label_map` and `num_kept` (cases to draw from at a time)
    belong to cases generated during training.
    """

    fraction: float = 0.5
    fraction_start: float = 1.0
    fraction_end: float = 0.0
    pretrain_share: float = 0.5
    epochs: int = 0
    model: str = "torso"
    seed: int = 0
    device: str = "auto"
    label_map: str = ""
    num_kept: int = 16

    def __post_init__(self) -> None:
        for name in ("fraction", "fraction_start", "fraction_end", "pretrain_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise _not("a fraction from 0 to 1", name, f"{getattr(self, name):g}")
        for name, least in (("epochs", 0), ("seed", 0), ("num_kept", 1)):
            if getattr(self, name) < least:
                raise _not(f"a number of {least} or more", name, str(getattr(self, name)))

    @classmethod
    def from_environment(cls) -> Settings:
        """Settings as the environment says, defaults elsewhere; NnUNetError for a wrong value or an unknown name."""
        known = {PREFIX + field.name.upper(): field for field in fields(cls)}
        given = {name: text for name, text in os.environ.items() if name.startswith(PREFIX)}
        if unknown := sorted(set(given) - set(known)):
            raise NnUNetError(f"{unknown[0]} is no setting; there are {', '.join(known)}. Unset or correct it.")
        values: dict[str, Any] = {}
        for name, text in given.items():
            field = known[name]
            kind = type(getattr(cls, field.name))
            try:
                values[field.name] = kind(text)
            except ValueError:
                what = "a fraction from 0 to 1" if kind is float else "a whole number"
                raise _not(what, field.name, repr(text)) from None
        return cls(**values)

    def record(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The values of some fields, as they go into log and checkpoint."""
        everything = asdict(self)
        return {name: everything[name] for name in names}


def _not(expected: str, name: str, came: str) -> NnUNetError:
    return NnUNetError(f"expected {expected} in {PREFIX}{name.upper()}, got {came}; set it again.")
