"""`guidegen preview`: a PNG sheet of cases."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = """\
Draw a PNG sheet: axial, coronal and sagittal slices with organ contours, the report underneath.

Slices go through the largest lesion, or the middle of the label map where there is none, and are shown as radiologists
see them: the patient's right on the left.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen preview`."""
    parser.add_argument("folder", type=Path, help="folder of guidegen-shard")
    parser.add_argument("--out", type=Path, metavar="PNG", help="default: preview.png in the folder")
    parser.add_argument("--num", type=int, default=4, help="number of cases, evenly picked (default 4)")
    parser.add_argument(
        "--window", choices=["soft", "lung", "bone"], default="soft", help="HU window of the CT (default soft)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the sheet and print its path. ShardError or CaseError when there is nothing to draw."""
    from io import BytesIO

    from guidegen_data.preview import preview_sheet
    from guidegen_data.shards.reader import ShardReader
    from guidegen_data.shards.writer import write_whole

    reader = ShardReader(args.folder)
    num = max(0, min(args.num, len(reader)))
    sheet = preview_sheet([reader[i * len(reader) // num] for i in range(num)], args.window)
    path = args.out or args.folder / "preview.png"
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    write_whole(path, [buffer.getvalue()])
    print(path)
    return 0
