"""The default autoencoder on the real CT its training never saw: python -m benchmarks.autoencoder DATA --only NAME."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.record import save
from guidegen_data.cli import evaluate


def main() -> None:
    """Runs `guidegen evaluate` and writes results/autoencoder.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of NAME_ct.nii.gz")
    parser.add_argument("--only", nargs="+", required=True, help="CTs left out of training")
    parser.add_argument("--model", default="torso")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures"
        inner = argparse.ArgumentParser()
        evaluate.configure(inner)
        words = [args.model, str(args.data), "--only", *args.only, "--out", str(out)]
        evaluate.run(inner.parse_args(words))
        figures = json.loads(out.with_name("figures.json").read_text())
    path = save("autoencoder", figures)
    # The folder is this machine's own business; a reader has another.
    record = json.loads(path.read_text())
    record["command"] = record["command"].replace(str(args.data), "DATA")
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
