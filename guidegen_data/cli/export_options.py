"""Options of `guidegen export` that belong to what else is given, and numbers that a case can be made with."""

from __future__ import annotations

import argparse
from typing import Any

#: Options that say something of runs, and what they are when they are not given.
OF_RUNS = {
    "anatomy": None,
    "licence": "",
    "steps_mask": 16,
    "steps_ct": 3,
    "delay_ct": None,
    "noise_correlation": 0.0,
    "last_timestep": 130,
    "size_strength": 0.6,
    "guidance": 1.0,
}
#: Those of them that say how slices are drawn, by the name that a model has for them.
OF_SLICES = {"steps_ct": "num_steps_ct", "delay_ct": "delay_ct", "noise_correlation": "noise_correlation"}
#: Options that say something of another one, and what they are when they are not given.
_OF_ANOTHER = {"steps_detail": (6, "detail"), "read_percentile": (10.0, "second_reader")}


def options_of_runs(args: argparse.Namespace, new_slices: bool = False) -> list[str]:
    """The options given that say something of runs: none of them is for a model, but those of its new slices."""
    left = [name for name in OF_RUNS if not (new_slices and name in OF_SLICES)]
    return [_option(name) for name in left if getattr(args, name) != OF_RUNS[name]]


def config_of_slices(args: argparse.Namespace) -> dict[str, Any]:
    """What the options given say of how slices are drawn, as a model notes it."""
    return {key: getattr(args, name) for name, key in OF_SLICES.items() if getattr(args, name) != OF_RUNS[name]}


def check_options(args: argparse.Namespace) -> None:
    """ModelError for a number that no case can be made with, and for an option of another one that is missing."""
    from guidegen_data.diffusion.categorical import CategoricalScheduler
    from guidegen_data.errors import ModelError

    CategoricalScheduler(last_timestep=args.last_timestep).set_timesteps(args.steps_mask)
    CategoricalScheduler().set_timesteps(args.steps_detail)
    if args.delay_ct is not None and args.delay_ct < 1:
        raise ModelError(f"--delay-ct is a number of steps from 1, got {args.delay_ct}.")
    if not 0 <= args.noise_correlation < 1:
        raise ModelError(f"--noise-correlation is from 0 to below 1, got {args.noise_correlation:g}.")
    for name, (default, other) in _OF_ANOTHER.items():
        if getattr(args, name) != default and not getattr(args, other):
            raise ModelError(f"{_option(name)} says something of {_option(other)}, and there is none; give both.")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
