"""`guidegen verify`: what is wrong in a shard folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = """\
Check a shard folder: checksums, members, grids, label ids, reports and manifest.

Prints one line for everything that is wrong, as FILE: CASE: WHAT, and exits with 1; prints the count when all is well.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen verify`."""
    parser.add_argument("folder", type=Path, help="folder of guidegen-shard")


def run(args: argparse.Namespace) -> int:
    """0 when all is well, 1 when something is wrong. ShardError when it is no shard folder."""
    from guidegen_data.shards.manifest import read_index
    from guidegen_data.shards.verify import problems

    num_problems = 0
    for problem in problems(args.folder):
        print(problem)
        num_problems += 1
    entries = read_index(args.folder)
    if num_problems:
        print(f"guidegen verify: {num_problems} problems in {args.folder}.", file=sys.stderr)
        return 1
    print(f"{args.folder}: {sum(e.num_cases for e in entries)} cases in {len(entries)} shards, all well")
    return 0
