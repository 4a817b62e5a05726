"""`guidegen preview`: a PNG sheet of cases."""

from __future__ import annotations

import argparse
from pathlib import Path

from guidegen_data.cli.numbers import positive

HELP = """\
Draw a PNG sheet: axial, coronal and sagittal slices with organ contours, the report underneath.

Slices go through the largest lesion, or the middle of the label map where there is none, and are shown as radiologists
see them: the patient's right on the left.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen preview`."""
    parser.add_argument("folder", metavar="DIR|URL", help="folder of guidegen-shard")
    parser.add_argument("--out", type=Path, metavar="PNG", help="default: preview.png in the folder")
    parser.add_argument("--num", type=positive, default=4, help="number of cases, evenly picked (default 4)")
    parser.add_argument(
        "--window", choices=["soft", "lung", "bone"], default="soft", help="HU window of the CT (default soft)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the sheet and print its path. ShardError or CaseError when there is nothing to draw."""
    from io import BytesIO

    from guidegen_data.preview import preview_sheet
    from guidegen_data.shards.reader import ShardReader
    from guidegen_data.shards.storage import folder_at

    folder = folder_at(args.folder)
    reader = ShardReader(folder)
    num = min(args.num, len(reader))
    sheet = preview_sheet([reader[i * len(reader) // num] for i in range(num)], args.window)
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    target, name = (folder_at(args.out.parent), args.out.name) if args.out else (folder, "preview.png")
    target.write(name, [buffer.getvalue()])
    print(f"{target.url}/{name}" if target.url != "." else name)
    return 0
