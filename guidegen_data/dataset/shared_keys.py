"""What real and synthetic items have in common: a batch of both can hold nothing else, each key in one type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor

from guidegen_data.errors import ShardError

_TRAINED_ON = ("image", "label")
#: What both kinds say of a tensor beside it: arrays from MONAI's loader, others from us, which would not collate.
_META_ARRAYS = {"original_affine": torch.float64, "spatial_shape": torch.int64}
#: The keys of items, with the data type of what is a tensor.
Keys = Mapping[str, torch.dtype | None]


def keys_of(item: Any) -> Keys | None:
    """The keys of an item, of a list those that all its items have; None where an item is no dictionary."""
    if isinstance(item, list) and item:
        each = [keys for one in item if (keys := keys_of(one)) is not None]
        if len(each) < len(item):
            return None
        return {key: dtype for key, dtype in each[0].items() if all(key in keys for keys in each)}
    if not isinstance(item, Mapping):
        return None
    return {key: value.dtype if isinstance(value, torch.Tensor) else None for key, value in item.items()}


def shared_keys(real: Keys | None, synthetic: Keys | None) -> Keys:
    """The keys to keep, in a data type that holds the tensors of both; none where no item is a dictionary.

    ShardError for items that have nothing in common, or an image or a label on one side only.
    """
    if real is None and synthetic is None:
        return {}
    if real is None or synthetic is None:
        which = "real" if real is None else "synthetic"
        raise ShardError(
            f"the {which} items are no dictionaries, the others are; give them a transform to 'image' and 'label' "
            f"first."
        )
    lonely = [key for key in _TRAINED_ON if (key in real) != (key in synthetic)]
    if lonely or not real.keys() & synthetic.keys():
        raise ShardError(
            f"real items have {_listed(real)}, synthetic ones {_listed(synthetic)}, and no batch can hold "
            f"{' and '.join(map(repr, lonely)) or 'anything'} of both; name them alike in a transform, or leave out "
            f"what one side lacks with monai.transforms.SelectItemsd."
        )
    pairs = {key: (dtype, synthetic[key]) for key, dtype in real.items() if key in synthetic}
    return {key: torch.promote_types(a, b) if a and b else None for key, (a, b) in pairs.items()}


def keep(item: Any, keys: Keys) -> Any:
    """The item with these keys alone, a list with each of its items so; what is no dictionary stays as it is."""
    if isinstance(item, list):
        return [keep(one, keys) for one in item]
    if not isinstance(item, Mapping):
        return item
    return {key: _of_type(value, keys[key]) for key, value in item.items() if key in keys}


def _of_type(value: Any, dtype: torch.dtype | None) -> Any:
    if dtype is None or not isinstance(value, torch.Tensor):
        return value
    if not isinstance(value, MetaTensor):
        return value.to(dtype)
    copied = value.to(dtype, copy=True)
    of_both = {name: dtype for name, dtype in _META_ARRAYS.items() if name in value.meta}
    arrays = {name: torch.as_tensor(value.meta[name], dtype=dtype) for name, dtype in of_both.items()}
    copied.meta = {**value.meta, **arrays}
    return copied


def _listed(keys: Keys) -> str:
    return ", ".join(sorted(map(str, keys))) or "no keys"
