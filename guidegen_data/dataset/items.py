"""What a user gets of a case: the MONAI dict of the contract, with labels projected and reports tokenised on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from guidegen_data.anatomy import Anatomy
from guidegen_data.case import Case
from guidegen_data.errors import LabelMapError, ReportError
from guidegen_data.label_maps import LabelMap, Projection, label_set
from guidegen_data.shards.manifest import CT, LABEL, to_json

Item = dict[str, Any]
#: A transformers tokenizer, or what takes the same arguments.
Tokenizer = Callable[..., Mapping[str, Any]]


@dataclass(frozen=True)
class ItemMaker:
    """How a case of `anatomy` becomes an item. With `num_tokens` 0 there are no report tokens; the default tokenizer is
    ours."""

    anatomy: Anatomy
    projection: Projection | None = None
    num_tokens: int = 0
    tokenizer: Tokenizer | None = None

    def __call__(self, case: Case, folder: str) -> Item:
        """The dict of one case; `folder` makes its file names unique. LabelMapError for a case of another anatomy."""
        self._refuse_other_anatomy(case.anatomy)
        labels = case.label_map
        if self.projection is not None:
            labels = self.projection(labels, case.spacing_mm)
        item = monai_dict(case, folder, labels)
        if self.num_tokens:
            item |= self._tokens(case.report)
        return item

    def _refuse_other_anatomy(self, anatomy: Anatomy) -> None:
        if anatomy.name != self.anatomy.name:
            raise LabelMapError(
                f"expected cases of {self.anatomy.name!r}, as the first one is, got one of {anatomy.name!r}, in which "
                f"the same number is another class; read the two kinds as two data sets."
            )

    def _tokens(self, report: str) -> Item:
        batch = (self.tokenizer or _default_tokenizer())(
            report, padding="max_length", truncation=True, max_length=self.num_tokens
        )
        return {
            "report_tokens": torch.as_tensor(batch["input_ids"], dtype=torch.int64).reshape(-1),
            "report_mask": torch.as_tensor(batch["attention_mask"], dtype=torch.bool).reshape(-1),
        }


def item_maker(
    anatomy: Anatomy,
    label_map: LabelMap | str | None,
    ignore_label: int | None,
    num_tokens: int,
    tokenizer: Tokenizer | None,
) -> ItemMaker:
    """The maker for these wishes. LabelMapError or ReportError when they cannot be met."""
    if num_tokens < 0:
        raise ReportError(f"expected report_tokens of 0 (none) or the number of tokens to pad to, got {num_tokens}.")
    projection = None
    if isinstance(label_map, str):
        wanted = label_set(label_map)
        if anatomy.name != wanted.anatomy.name:
            raise LabelMapError(
                f"{label_map} is a label set of the {wanted.anatomy.name}, the cases show {anatomy.name}."
            )
        projection = wanted.projection(ignore_label)
    elif label_map is not None:
        projection = Projection.from_map(anatomy, label_map)
    return ItemMaker(anatomy, projection, num_tokens, tokenizer)


def monai_dict(case: Case, folder: str, label_map: np.ndarray | None = None) -> Item:
    """The item of a case: image (1, X, Y, Z) float32 HU and label (1, X, Y, Z) uint8 on one RAS+ affine in mm.

    `label_map` takes the place of the case's own. `meta` holds only values that a DataLoader can collate, `findings`
    therefore as JSON (see Findings.from_dict). `filename_or_obj` is unique within a folder, so that SaveImage names
    files by it.
    """
    meta = case.provenance
    affine = torch.from_numpy(np.asarray(case.affine, np.float64).copy())
    labels = case.label_map if label_map is None else label_map
    return {
        "image": _meta_tensor(case.ct_hu, torch.float32, affine, f"{folder}/{case.key}.{CT}"),
        # torch has few operations on uint16.
        "label": _meta_tensor(
            labels, torch.uint8 if labels.dtype == np.uint8 else torch.int32, affine, f"{folder}/{case.key}.{LABEL}"
        ),
        "report": case.report,
        "meta": {
            "key": case.key,
            "anatomy": case.anatomy.name,
            "findings": to_json(case.findings.to_dict()),
            "prompt": case.findings.prompt(),
            "spacing_mm": list(case.spacing_mm),
            "volumes_ml": dict(meta["volumes_ml"]),
            **{name: meta[name] for name in ("index", "seed", "case_seed", "model_sha256")},
            "passed": meta["quality"]["passed"],
        },
    }


def item_hash(item: Any) -> bytes:
    """Hex digest of all that an item holds, the same in every process: `hash_func` for MONAI's PersistentDataset.

    MONAI's own pickles the item, and a pickled tensor holds its address in memory, so its cache would never be hit.
    """
    digest = hashlib.sha256()
    _digest(item, digest.update)
    return digest.hexdigest().encode()


def _digest(part: Any, update: Callable[[Any], None]) -> None:
    if isinstance(part, torch.Tensor):
        if isinstance(part, MetaTensor):
            _digest(part.affine.cpu().numpy(), update)
            part = part.as_tensor()
        part = part.cpu().numpy()
    if isinstance(part, np.ndarray):
        update(f"{part.dtype}{part.shape}".encode())
        update(np.ascontiguousarray(part).view(np.uint8))
    elif isinstance(part, Mapping):
        for key in sorted(part):
            update(f"{key}:".encode())
            _digest(part[key], update)
    elif isinstance(part, list | tuple):
        for each in part:
            _digest(each, update)
    else:
        update(f"{part!r};".encode())


def _meta_tensor(array: np.ndarray, dtype: torch.dtype, affine: torch.Tensor, name: str) -> MetaTensor:
    tensor = _in_c_order(array).to(dtype).unsqueeze(0)
    meta = {"filename_or_obj": name, "original_affine": affine.clone(), "space": "RAS", "spatial_shape": array.shape}
    return MetaTensor(tensor, affine=affine.clone(), meta=meta)


def _in_c_order(array: np.ndarray) -> torch.Tensor:
    """A copy (X, Y, Z) in C order. NIfTI files hold Fortran order, and turning it round costs more than decompression
    when x and z are exchanged at once: two steps, of which each moves one axis, read and write longer stretches."""
    if not array.flags.f_contiguous or array.flags.c_contiguous:
        return torch.from_numpy(array.copy(order="C"))
    num_x, num_y, num_z = array.shape
    x_first = torch.from_numpy(array.T.reshape(num_z * num_y, num_x)).t().contiguous()
    return x_first.view(num_x, num_z, num_y).transpose(1, 2).contiguous()


def _default_tokenizer() -> Tokenizer:
    from guidegen_data.models.text import TextEncoder

    return TextEncoder().tokenizer
