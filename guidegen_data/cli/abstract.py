"""guidegen abstract: what a report is read as, as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from guidegen_data.anatomy import ANATOMIES, TORSO, anatomy_named
from guidegen_data.errors import ReportError

HELP = "read a radiology report: print its findings, what was understood and what was ignored"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="report text (UTF-8), or - for standard input")
    parser.add_argument(
        "--anatomy",
        choices=sorted(ANATOMIES),
        default=TORSO.name,
        help="label table to read for (default: %(default)s)",
    )
    parser.add_argument(
        "--abstractor",
        metavar="PATH_OR_HUB_ID",
        default="",
        help="read with this chat model of transformers instead (a folder, a .gguf file or a hub id); what the rules "
        "read differently is listed, and the rules are used where the model cannot be",
    )
    parser.add_argument("--device", default="cpu", help="where the chat model runs (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print the JSON. A GuideGenError when the file, the report or the chat model cannot be used."""
    from guidegen_data.models.language_model import load_abstractor

    text = _read(args.file)
    result = load_abstractor(args.abstractor, args.device)(text, anatomy_named(args.anatomy))
    answer = {
        "findings": result.findings.to_dict(),
        "prompt": result.findings.prompt(),
        "understood": list(result.understood),
        "ignored": list(result.ignored),
        "read_by": result.read_by,
        "disagreements": [entry._asdict() for entry in result.disagreements],
    }
    print(json.dumps(answer, indent=2, ensure_ascii=False))
    return 0


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ReportError(
            f"expected a report file at {name!r}, got: {reason}; give a text file or - instead."
        ) from error
    except UnicodeDecodeError as error:
        raise ReportError(f"expected UTF-8 report text in {name!r}, got other bytes; save it as UTF-8.") from error
