"""GuideGenStream: endless, each case once."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import apply_transform
from torch.utils.data import IterableDataset

from guidegen_data.case import Case
from guidegen_data.dataset.items import Item, Tokenizer, item_maker
from guidegen_data.dataset.on_the_fly import OnTheFly
from guidegen_data.dataset.places import Place, Process, own_process, place_here
from guidegen_data.errors import ShardError
from guidegen_data.label_maps import LabelMap
from guidegen_data.shards.plan import CaseGenerator

_MAX_WORKERS = 1024


class GuideGenStream(IterableDataset[Any]):
    """Endless and fresh: case after case from (seed, i), none of them twice, kept nowhere.

    Under a DataLoader each worker makes its own cases, and so does each process of a distributed training; a new pass
    goes on where the last one stopped, with the rest of its block where the process is still the same. `transform` is
    any MONAI transform; the items of one that returns a list are yielded one by one. `label_map`, `report_tokens` and
    the rest are as in GuideGenDataset.
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
        # The epoch, how often one was set, and among how many places its blocks are shared (0: none was taken yet).
        self._epoch = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._process: Process | None = None
        self._rest: deque[Case] = deque()
        self._rest_of: tuple[object, ...] = ()

    def set_epoch(self, epoch: int) -> None:
        """From the next case on, the cases of that epoch from its first: what a resumed training would have had.

        Epoch 0 has the cases of the seed itself, every other one its own. What a DataLoader's workers have made ahead
        still comes. ShardError for a negative epoch.
        """
        if epoch < 0:
            raise ShardError(f"expected an epoch of 0 or more, got {epoch}; count from 0.")
        self._epoch[0] = epoch
        self._epoch[1] += 1
        self._epoch[2] = 0
        self._num_taken.zero_()

    def __iter__(self) -> Iterator[Any]:
        for made in self.whole_cases():
            yield from made if isinstance(made, list) else [made]

    def whole_cases(self) -> Iterator[Any]:
        """What the transform makes of each case: a list where it returns one."""
        place = place_here(self._process)
        while True:
            case, epoch = self._next_case(place)
            item = self._item(case, f"stream-{self._source.recipe_of(epoch).sha256[:16]}")
            yield item if self.transform is None else apply_transform(self.transform, item)

    def _next_case(self, place: Place) -> tuple[Case, int]:
        """The next case of a place, with its epoch. Blocks are made whole; what is left of one belongs to the process
        that made it, until another epoch is set."""
        epoch, num_set, _ = self._epoch.tolist()
        rest_of = (os.getpid(), num_set, place)
        if self._rest_of != rest_of:
            self._rest.clear()
            self._rest_of = rest_of
        if not self._rest:
            self._rest.extend(self._source.block(self._take_block(place), epoch))
        return self._rest.popleft(), epoch

    def _take_block(self, place: Place) -> int:
        if int(self._epoch[2]) not in (0, place.num_places):
            warnings.warn(
                "the number of workers or processes changed, so that cases of this epoch may come again: call "
                "set_epoch(epoch) with the next one.",
                stacklevel=2,
            )
        self._epoch[2] = place.num_places
        block = int(self._num_taken[place.worker]) * place.num_places + place.number
        self._num_taken[place.worker] += 1
        return block

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": own_process() or self._process, "_rest": deque(), "_rest_of": ()}
