"""GuideGenStream: endless, each case once."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import apply_transform
from torch.utils.data import IterableDataset

from guidegen_data.case import Case
from guidegen_data.dataset.counters import MAX_WORKERS, Counters
from guidegen_data.dataset.items import Item, Tokenizer, item_maker
from guidegen_data.dataset.on_the_fly import OnTheFly
from guidegen_data.dataset.places import Place
from guidegen_data.errors import ShardError
from guidegen_data.label_maps import LabelMap
from guidegen_data.shards.plan import CaseGenerator

# Columns of the counters: the epoch, how often one was set, among how many places its blocks are shared (0: none was
# taken yet), and from the last one on how many blocks each worker has taken.
_EPOCH, _NUM_SET, _NUM_PLACES, _NUM_TAKEN = range(4)


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
        # Shared with DataLoader workers, because each epoch starts them from this object again.
        self._counters = Counters(_NUM_TAKEN + MAX_WORKERS)
        self._rest: deque[Case] = deque()
        self._rest_of: tuple[object, ...] = ()

    def set_epoch(self, epoch: int) -> None:
        """From the next case on, the cases of that epoch from its first: what a resumed training would have had.

        Epoch 0 has the cases of the seed itself, every other one its own. What a DataLoader's workers have made ahead
        still comes. ShardError for a negative epoch.
        """
        if epoch < 0:
            raise ShardError(f"expected an epoch of 0 or more, got {epoch}; count from 0.")
        self._counters[_EPOCH] = epoch
        self._counters[_NUM_SET] += 1
        self._counters[_NUM_PLACES:] = 0

    def __iter__(self) -> Iterator[Any]:
        for made in self.whole_cases():
            yield from made if isinstance(made, list) else [made]

    def whole_cases(self) -> Iterator[Any]:
        """What the transform makes of each case: a list where it returns one."""
        place = self._counters.place
        while True:
            case, epoch = self._next_case(place)
            item = self._item(case, f"stream-{self._source.recipe_of(epoch).sha256[:16]}")
            yield item if self.transform is None else apply_transform(self.transform, item)

    def _next_case(self, place: Place) -> tuple[Case, int]:
        """The next case of a place, with its epoch. Blocks are made whole; what is left of one belongs to the process
        that made it, until another epoch is set."""
        epoch, num_set = self._counters[_EPOCH], self._counters[_NUM_SET]
        rest_of = (os.getpid(), num_set, place)
        if self._rest_of != rest_of:
            self._rest.clear()
            self._rest_of = rest_of
        if not self._rest:
            self._rest.extend(self._source.block(self._take_block(place), epoch))
        return self._rest.popleft(), epoch

    def _take_block(self, place: Place) -> int:
        if self._counters.changed_places(_NUM_PLACES):
            warnings.warn(
                "the number of workers or processes changed, so that cases of this epoch may come again: call "
                "set_epoch(epoch) with the next one.",
                stacklevel=2,
            )
        block = self._counters[_NUM_TAKEN + place.worker] * place.num_places + place.number
        self._counters[_NUM_TAKEN + place.worker] += 1
        return block

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rest": deque(), "_rest_of": ()}
