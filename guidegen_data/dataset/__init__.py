"""MONAI data sets of synthetic cases: from shards, generated on first use, endless, or mixed with real ones."""

from guidegen_data.dataset.items import item_hash, monai_dict
from guidegen_data.dataset.map_style import GuideGenDataset
from guidegen_data.dataset.mixing import MixedDataset, MixedStream, mix
from guidegen_data.dataset.stream import GuideGenStream

__all__ = ["GuideGenDataset", "GuideGenStream", "MixedDataset", "MixedStream", "item_hash", "mix", "monai_dict"]
