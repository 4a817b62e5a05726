"""A model folder with one part replaced by that of a run; all else of it stays as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guidegen_data.errors import ModelError
from guidegen_data.training.provenance import with_stage


def copy_model(folder: Path, out: Path) -> None:
    """The model's files in `out`, which may be the folder itself; ModelError where `out` holds anything else."""
    if out.resolve() == folder.resolve():
        return
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty; choose another folder.")
    shutil.copytree(folder, out, dirs_exist_ok=True)


def put_part(
    model: Path, part: str, network: nn.Module, stage: str, facts: dict[str, Any] | None, **config: Any
) -> None:
    """Writes a part in half precision, `config` into the model's index, and the row of a stage with the facts of its
    run into the card (none without)."""
    _put(model, part, network, config)
    if facts is not None:
        card = model / "README.md"
        card.write_text(with_stage(_text_of(card), stage, facts), encoding="utf-8")


def drop_part(model: Path, part: str, stage: str) -> None:
    """Takes a part that may be left out from a model folder, with the row of its stage in the card."""
    shutil.rmtree(model / part, ignore_errors=True)
    path, card = model / "model_index.json", model / "README.md"
    index = {k: v for k, v in json.loads(path.read_text()).items() if k != part}
    path.write_text(json.dumps(index, indent=2) + "\n")
    rows = [line for line in _text_of(card).splitlines() if not line.startswith(f"| {stage} |")]
    card.write_text("\n".join(rows) + "\n", encoding="utf-8")


def put_reader(model: Path, reader: nn.Module, least: dict[str, float], section: str) -> None:
    """Writes a second reader into a model folder, in place of one that was there, and its section into the card."""
    _put(model, "second_reader", reader, {"least_read_dice": least})
    card, head = model / "README.md", section.splitlines()[0]
    before, _, after = _text_of(card).partition(head)
    rest = after[at:] if (at := after.find("\n## ")) >= 0 else ""
    card.write_text(before.rstrip("\n") + "\n\n" + section + rest, encoding="utf-8")


def _text_of(card: Path) -> str:
    return card.read_text(encoding="utf-8") if card.exists() else ""


def _put(model: Path, part: str, network: nn.Module, config: dict[str, Any]) -> None:
    half: Any = nn.Module.to(network, torch.float16)
    half.save_pretrained(model / part, safe_serialization=True)
    index = json.loads((model / "model_index.json").read_text())
    index |= {part: [type(network).__module__, type(network).__name__], **config}
    first = {k: v for k, v in index.items() if k.startswith("_")}
    index = first | dict(sorted((k, v) for k, v in index.items() if k not in first))
    (model / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
