"""GuideGenDataset: cases by position, from shards or generated on first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import apply_transform
from torch.utils.data import Dataset, Subset

from guidegen_data.dataset.items import Item, Tokenizer, item_maker
from guidegen_data.dataset.on_the_fly import GeneratedCases, OnTheFly
from guidegen_data.dataset.shard_list import ShardList, Shards
from guidegen_data.errors import ShardError
from guidegen_data.label_maps import LabelMap
from guidegen_data.shards.plan import CaseGenerator


class GuideGenDataset(Dataset[Any]):
    """Map-style: `{"image": (1, X, Y, Z) float32 HU, "label": (1, X, Y, Z) uint8, "report": str, "meta": dict}`.

    `GuideGenDataset("shards/")` reads shards: a folder, a tar, a pattern ("s3://bucket/run/shard-{000000..000063}.tar",
    "runs/*/shard-*.tar") or a list of these, on disk or behind any URL that fsspec opens. `GuideGenDataset(
    model="torso", n=200, seed=0)` generates each case when it is first asked for and keeps it in `cache_dir`, the very
    case that `guidegen-shard` makes for the same model, seed and index. `transform` is any MONAI transform.

    `label_map` projects our classes onto other labels: {"liver": 1, "right kidney": 2, "tumour": 3}, or the name of a
    public set ("btcv", see guidegen_data.label_maps); what is not named becomes background, and a tumour that is not
    named counts as the organ it grew in. A target volume (ptv70) grew in soft tissue: the organs under it, which show
    in the CT, become that or background, so train organs on shards of `guidegen-shard --sampling organs`.
    `report_tokens` adds that many token ids of the report as `report_tokens`, with `report_mask`, by the default
    encoder's tokenizer or your own.
    """

    def __init__(
        self,
        shards: Shards | None = None,
        transform: Callable[[Item], Any] | None = None,
        *,
        model: str | Path | CaseGenerator | None = None,
        n: int | None = None,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        device: str = "auto",
        templates: str | None = None,
        reports: Sequence[str] = (),
        num_steps_mask: int | None = None,
        num_steps_ct: int | None = None,
        guidance: float | None = None,
        quality_control: bool = True,
        label_map: LabelMap | str | None = None,
        ignore_label: int | None = None,
        report_tokens: int = 0,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """ShardError unless exactly one source is given, either `shards`, or `model` together with `n`.

        LabelMapError for a label map with unknown names or collisions, and for the first case of another anatomy.
        """
        if (shards is None) == (model is None) or (model is None) != (n is None):
            raise ShardError("give either a shard folder, or model= and n= to generate cases on first use.")
        self.transform = transform
        self._cases: ShardList | GeneratedCases
        if model is None:
            assert shards is not None
            self._cases = ShardList(shards)
            anatomy = self._cases.case(0)[0].anatomy
        else:
            assert n is not None
            source = OnTheFly(
                model,
                device,
                seed,
                templates,
                tuple(reports),
                num_steps_mask,
                num_steps_ct,
                guidance,
                quality_control,
            )
            self._cases = GeneratedCases(source, n, Path(cache_dir) if cache_dir else None)
            anatomy = source.anatomy
        self._item = item_maker(anatomy, label_map, ignore_label, report_tokens, tokenizer)
        self.labels = dict(self._item.projection.ids if self._item.projection else anatomy.ids)

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Any:
        """One item, or a Subset for a slice or a list of positions, as MONAI's own data sets give."""
        if isinstance(index, slice):
            return Subset(self, range(*index.indices(len(self))))
        if isinstance(index, Sequence):
            return Subset(self, list(index))
        item = self._item(*self._cases.case(index))
        return item if self.transform is None else apply_transform(self.transform, item)
