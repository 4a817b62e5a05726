"""Real and synthetic data sets in one, at a set share, in epochs as long as those of the real one alone."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from guidegen_data.dataset.counters import MAX_WORKERS, Counters
from guidegen_data.dataset.shared_keys import Keys, keep, keys_of, shared_keys
from guidegen_data.dataset.stream import GuideGenStream
from guidegen_data.errors import ShardError

# Columns of the counters: the epoch, among how many places a stream's positions are shared (0: no pass has begun yet),
# and how many passes have begun since the epoch was set, in a stream for each worker from that column on.
_EPOCH, _NUM_PLACES, _NUM_BEGUN = range(3)


class Draws:
    """Which item stands where in which epoch: a function of (sizes, fraction, seed) alone, in no particular state.

    Of the n items of an epoch, `fraction` are synthetic: rounded down or up so that the share is right over epochs.
    Each data set is gone through in random order, and again only when all its items were drawn.
    """

    def __init__(self, num_real: int, num_synthetic: int | None, fraction: float, seed: int, n: int | None) -> None:
        """`num_synthetic` None for an endless one. ShardError for a share or a length that cannot be."""
        if not 0 <= fraction <= 1:
            raise ShardError(f"expected a fraction of synthetic items from 0 to 1, got {fraction:g}; set it again.")
        if (fraction < 1 and not num_real) or (fraction > 0 and num_synthetic == 0):
            raise ShardError("expected items in both data sets, but one is empty; fill it, or leave it out.")
        self.n = num_real if n is None else n
        if self.n < 1:
            raise ShardError(f"expected at least one item an epoch, got n = {self.n}; give n=.")
        self.num_real, self.num_synthetic, self.fraction, self.seed = num_real, num_synthetic, fraction, seed

    @property
    def of_both(self) -> bool:
        """Whether real and synthetic items are drawn, not those of one data set alone."""
        return 0 < self.fraction < 1

    def __call__(self, epoch: int, position: int) -> tuple[bool, int]:
        """(whether it is synthetic, which item of its data set)."""
        before, after = self._num_synthetic_until(epoch), self._num_synthetic_until(epoch + 1)
        rank = int(self._order("places", epoch, self.n)[position])
        if rank < after - before:
            size = self.num_synthetic
            return True, before + rank if size is None else self._item("synthetic", before + rank, size)
        return False, self._item("real", epoch * self.n - before + rank - (after - before), self.num_real)

    def _num_synthetic_until(self, epoch: int) -> int:
        return math.floor(epoch * self.n * self.fraction + 0.5)

    def _item(self, which: str, number: int, size: int) -> int:
        turn, place = divmod(number, size)
        return int(self._order(which, turn, size)[place])

    def _order(self, purpose: str, turn: int, size: int) -> np.ndarray:
        key = (purpose, turn, size)
        # A loader asks for the same two or three orders again and again.
        orders = self.__dict__.setdefault("_orders", {})
        if key not in orders:
            if len(orders) > 8:
                orders.clear()
            words = [self.seed, {"places": 0, "real": 1, "synthetic": 2}[purpose], turn]
            orders[key] = np.random.default_rng(words).permutation(size)
        return orders[key]


class MixedDataset(Dataset[Any]):
    """Map-style mixture; see `mix`. Call `set_epoch` before each epoch: without it every epoch is the same draw."""

    def __init__(self, real: Any, synthetic: Any, draws: Draws) -> None:
        self.real, self.synthetic, self._draws = real, synthetic, draws
        self._keys = shared_keys(keys_of(real[0]), keys_of(synthetic[0])) if draws.of_both else None
        # Shared with DataLoader workers, persistent ones too.
        self._counters = Counters(_NUM_BEGUN + 1)

    def __len__(self) -> int:
        return self._draws.n

    def set_epoch(self, epoch: int) -> None:
        """Draw anew for that epoch. ShardError for a negative one."""
        _check_epoch(epoch)
        self._counters[_EPOCH] = epoch
        self._counters[_NUM_BEGUN] = 0
        for part in (self.real, self.synthetic):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def is_synthetic(self, position: int) -> bool:
        """Whether the item at a position of this epoch is synthetic. IndexError beyond the end."""
        return self._draws(self._counters[_EPOCH], range(len(self))[position])[0]

    def __getitem__(self, position: int) -> Any:
        position = range(len(self))[position]
        if position == 0:
            self._counters[_NUM_BEGUN] += 1
            if self._counters[_NUM_BEGUN] == 2:
                warnings.warn(
                    "every epoch draws the same items until set_epoch(epoch) is called: call it before each epoch, or "
                    "a part of the real cases will never be seen.",
                    stacklevel=2,
                )
        is_synthetic, index = self._draws(self._counters[_EPOCH], position)
        item = (self.synthetic if is_synthetic else self.real)[index]
        return item if self._keys is None else keep(item, self._keys)


class MixedStream(IterableDataset[Any]):
    """The same with an endless synthetic data set: n items an epoch, the synthetic ones always fresh; see `mix`.

    Workers and distributed processes share the positions of an epoch among them. Every process gets as many, so that
    none waits for the others at the end of an epoch: where n does not divide evenly the first positions are used twice.
    A transform that returns a list for each case gives lists here, on both sides, as in a MixedDataset.
    """

    def __init__(self, real: Any, synthetic: Any, draws: Draws) -> None:
        self.real, self.synthetic, self._draws = real, synthetic, draws
        self._real_keys = keys_of(real[0]) if draws.of_both else None
        self._keys: Keys | None = None
        self._counters = Counters(_NUM_BEGUN + MAX_WORKERS)

    def __len__(self) -> int:
        """Items an epoch in this process."""
        return -(-self._draws.n // self._counters.place.num_ranks)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is that epoch; without it, passes count up. ShardError for a negative one."""
        _check_epoch(epoch)
        self._counters[_EPOCH] = epoch
        self._counters[_NUM_PLACES:] = 0
        if hasattr(self.synthetic, "set_epoch"):
            self.synthetic.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        place = self._counters.place
        if self._counters.changed_places(_NUM_PLACES):
            warnings.warn(
                "the number of workers or processes changed, so that they draw from different epochs and some real "
                "cases come twice, others not: call set_epoch(epoch) before the next pass.",
                stacklevel=2,
            )
        epoch = self._counters[_EPOCH] + self._counters[_NUM_BEGUN + place.worker]
        self._counters[_NUM_BEGUN + place.worker] += 1
        fresh = self.synthetic.whole_cases() if isinstance(self.synthetic, GuideGenStream) else iter(self.synthetic)
        numbers = range(place.worker, len(self), place.num_workers)
        drawn = [self._draws(epoch, (n * place.num_ranks + place.rank) % self._draws.n) for n in numbers]
        # The first fresh item is made before its turn, since the real ones before it must lose what it lacks.
        if self._keys is None and self._draws.of_both and any(is_synthetic for is_synthetic, _ in drawn):
            first = next(fresh)
            self._keys = shared_keys(self._real_keys, keys_of(first))
            fresh = itertools.chain([first], fresh)
        for is_synthetic, index in drawn:
            item = next(fresh) if is_synthetic else self.real[index]
            yield item if self._keys is None else keep(item, self._keys)


def mix(
    real: Any, synthetic: Any, fraction: float = 0.5, seed: int = 0, n: int | None = None
) -> MixedDataset | MixedStream:
    """One data set of which `fraction` is synthetic, from any two MONAI (or torch) data sets; `real` is map-style.

    An epoch has `n` items, by default as many as `real`: as many steps as a training on the real cases alone. Which
    items, and where, depends on (seed, epoch) only, whatever the number of workers; each data set is gone through
    before any of its items comes again. With an endless `synthetic` (GuideGenStream) the result is iterable, too.
    Where items are dictionaries they keep the keys that the first item of each has ('image' and 'label', say, without
    the 'report' and 'meta' of a GuideGenDataset), since a batch can hold no others, and tensors of a key have the
    wider of the two data types (labels that MONAI loaded are float32, ours uint8). A MixedDataset needs `set_epoch`
    before each epoch, without which every one is the same draw; a MixedStream counts its passes.
    ShardError for a fraction outside 0..1, an empty data set, or items that cannot be in one batch: with an 'image' or
    a 'label' on one side only, or nothing in common. Validate on real cases only: never on the result.
    """
    if isinstance(synthetic, IterableDataset):
        return MixedStream(real, synthetic, Draws(len(real), None, fraction, seed, n))
    return MixedDataset(real, synthetic, Draws(len(real), len(synthetic), fraction, seed, n))


def _check_epoch(epoch: int) -> None:
    if epoch < 0:
        raise ShardError(f"expected an epoch of 0 or more, got {epoch}; count from 0.")
