"""GuideGenStream: endless, each case once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import apply_transform
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from guidegen_data.dataset.items import Item, Tokenizer, item_maker
from guidegen_data.dataset.on_the_fly import OnTheFly
from guidegen_data.errors import ShardError
from guidegen_data.label_maps import LabelMap
from guidegen_data.shards.plan import CaseGenerator

_MAX_WORKERS = 1024


class GuideGenStream(IterableDataset[Any]):
    """Endless and fresh: case after case from (seed, i), none of them twice, kept nowhere.

    Under a DataLoader each worker makes its own cases, and so does each process of a distributed training; a new epoch
    goes on where the last one stopped. `transform` is any MONAI transform; the items of one that returns a list are
    yielded one by one. `label_map`, `report_tokens` and the rest are as in GuideGenDataset.
    """

    def __init__(
        self,
        model: str | Path | CaseGenerator = "torso",
        transform: Callable[[Item], Any] | None = None,
        *,
        seed: int = 0,
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
        """ModelError or ReportError when model or templates cannot be used, LabelMapError for the label map."""
        self.transform = transform
        self._source = OnTheFly(
            model, device, seed, templates, tuple(reports), num_steps_mask, num_steps_ct, guidance, quality_control
        )
        self._item = item_maker(self._source.anatomy, label_map, ignore_label, report_tokens, tokenizer)
        self.labels = dict(self._item.projection.ids if self._item.projection else self._source.anatomy.ids)
        # Shared with DataLoader workers, forked or spawned, because each epoch starts them from this object again.
        self._num_taken = torch.zeros(_MAX_WORKERS, dtype=torch.int64).share_memory_()
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """From the next case on, the cases of that epoch from its first: what a resumed training would have had.

        Epoch 0 has the cases of the seed itself, every other one its own. ShardError for a negative epoch.
        """
        if epoch < 0:
            raise ShardError(f"expected an epoch of 0 or more, got {epoch}; count from 0.")
        self._epoch[0] = epoch
        self._num_taken.zero_()

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        rank, world_size = process_rank()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        # A worker's place among all workers of all processes.
        place, num_places = rank * num_workers + number, world_size * num_workers
        while True:
            epoch = int(self._epoch)
            block = int(self._num_taken[number]) * num_places + place
            self._num_taken[number] += 1
            folder = f"stream-{self._source.recipe_of(epoch).sha256[:16]}"
            for case in self._source.block(block, epoch):
                item = self._item(case, folder)
                made = item if self.transform is None else apply_transform(self.transform, item)
                yield from made if isinstance(made, list) else [made]


def process_rank() -> tuple[int, int]:
    """(rank, number of processes) of a distributed training; a DataLoader worker knows them by the environment only."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
