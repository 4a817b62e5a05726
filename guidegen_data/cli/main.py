"""The `guidegen` and `guidegen-shard` commands: one table of commands, one place where errors become a sentence."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from guidegen_data import __version__
from guidegen_data.errors import GuideGenError

# Name -> what it does. Each is a module of this package, imported only when it is chosen, so that help stays quick.
COMMANDS = {
    "shard": "generate paired CTs and label maps into a folder of shards",
    "verify": "check a shard folder: checksums, members, grids, label ids, reports",
    "preview": "draw a PNG sheet of cases with organ contours and reports",
    "abstract": "read a radiology report: print its findings and what was ignored",
    "prepare": "turn a folder of real CTs and label maps into training cases",
    "complete": "draw organs that planners left out in some of the training cases",
    "train": "train one stage: autoencoder, masks, detail, tissue, slices or decoder",
    "export": "join three trained stages into one model folder",
    "evaluate": "measure a model against real data",
    "nnunet": "mix synthetic cases into an nnU-Net data set and its training",
}
_EPILOG = """\
Start with `guidegen-shard --n 4`, look with `guidegen preview guidegen-shard`, then train from
guidegen_data.GuideGenDataset("guidegen-shard"). `guidegen COMMAND --help` explains a command.
Every command that was interrupted goes on when the same command is given again.
"""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def main(argv: Sequence[str] | None = None) -> int:
    """`guidegen COMMAND ...`. Exit status: 0 done, 1 refused, 2 usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        return _run(arguments[0], f"guidegen {arguments[0]}", arguments[1:])
    parser = argparse.ArgumentParser(
        prog="guidegen",
        description="Paired CT volumes and organ/tumour masks from radiology-report text.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"guidegen-data {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what, add_help=False)
    parser.parse_args(arguments[:1])  # no command was chosen: this prints help or the usage error and leaves
    return 2


def shard(argv: Sequence[str] | None = None) -> int:
    """`guidegen-shard ...`, which is `guidegen shard ...`."""
    return _run("shard", "guidegen-shard", list(sys.argv[1:] if argv is None else argv))


def _run(name: str, prog: str, arguments: Sequence[str]) -> int:
    module = import_module(f"guidegen_data.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=prog, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.configure(parser)
    args = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = module.run
    # Read when torch is loaded, which no command does before. Threads that wait for others then leave their core soon
    # to whom needs it: by default two threads beside one busy program were six times as slow, and no faster alone.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        return run(args)
    except GuideGenError as error:
        return _refuse(prog, str(error))
    except BrokenPipeError:  # `guidegen ... | head`
        sys.stderr.close()
        return 1
    except OSError as error:
        return _refuse(prog, _sentence(error))
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; what is finished is kept, run the same command again to go on.", file=sys.stderr)
        return 130


def _refuse(prog: str, sentence: str) -> int:
    print(f"{prog}: {' '.join(sentence.split())}", file=sys.stderr)
    return 1


def _sentence(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in _NO_SPACE:
        return f"the disk is full{where}; free some space and run the same command again, what is finished is kept."
    return f"{error.strerror or error}{where}; check the path and its permissions, then run the same command again."


if __name__ == "__main__":
    sys.exit(main())
