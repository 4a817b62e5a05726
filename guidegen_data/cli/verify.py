"""`guidegen verify`: what is wrong in a shard folder, and making just that anew."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidegen_data.shards.storage import Folder
    from guidegen_data.shards.verify import Problem

HELP = """\
Check a shard folder: checksums, members, grids, label ids, reports against label maps, index and manifest.

Prints one line for everything that is wrong, as FILE: CASE: WHAT, and exits with 1; prints the count when all is well.
--repair removes what is wrong and generates it again with the model and the options of run.json: the same bytes where
the machine computes in the same arithmetic (bfloat16 or float32); cases of both in one folder are told.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen verify`."""
    parser.add_argument("folder", metavar="DIR|URL", help="folder of guidegen-shard")
    parser.add_argument("--repair", action="store_true", help="remove what is wrong and generate it again")
    parser.add_argument("--model", metavar="NAME|PATH", help="where the model is now (default: as in run.json)")
    parser.add_argument("--device", help="device to repair on, of the kind that made the folder (default: that kind)")


def run(args: argparse.Namespace) -> int:
    """0 when all is well, 1 when something is wrong. ShardError when it is no shard folder."""
    from guidegen_data.shards.manifest import read_index
    from guidegen_data.shards.storage import folder_at
    from guidegen_data.shards.verify import arithmetics

    folder = folder_at(args.folder)
    found = _tell(folder)
    if found and args.repair:
        _repair(args, folder, found)
        found = _tell(folder)
    if found:
        print(f"guidegen verify: {len(found)} problems in {args.folder}.", file=sys.stderr)
        return 1
    if len(mixed := arithmetics(folder)) > 1:
        told = ", ".join(f"{number} in {name}" for name, number in sorted(mixed.items()))
        print(
            f"{args.folder}: its cases were computed in different arithmetic ({told}), so that some have other bytes "
            f"than one machine would have given them.",
            file=sys.stderr,
        )
    entries = read_index(folder)
    print(f"{args.folder}: {sum(e.num_cases for e in entries)} cases in {len(entries)} shards, all well")
    return 0


def _tell(folder: Folder) -> list[Problem]:
    from guidegen_data.shards.verify import problems

    found = []
    for problem in problems(folder):
        print(problem, flush=True)
        found.append(problem)
    return found


def _repair(args: argparse.Namespace, folder: Folder, found: list[Problem]) -> None:
    from guidegen_data.errors import ShardError
    from guidegen_data.shards import generators
    from guidegen_data.shards.manifest import read_config
    from guidegen_data.shards.repair import repair

    config = read_config(folder)
    model, device = args.model or config.model, args.device or config.recipe.device
    if (kind := generators.device_kind(device)) != config.recipe.device:
        raise ShardError(f"{folder.url} was made on {config.recipe.device}, where its bytes come from, not on {kind}.")
    steps = repair(folder, found, lambda: generators.load_generator(model, device), generators.model_card(model))
    kept = next(steps).num_done
    for _ in steps:
        pass
    print(f"{folder.url}: kept {kept} cases, generated {config.n - kept} again")
