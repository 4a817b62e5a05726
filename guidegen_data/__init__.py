"""Paired CT volumes and organ/tumour masks from radiology-report text. Names are loaded on first use."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Anatomy": "anatomy",
    "HEAD_NECK": "anatomy",
    "TORSO": "anatomy",
    "Case": "case",
    "Findings": "reports.findings",
    "GuideGenDataset": "dataset",
    "GuideGenError": "errors",
    "GuideGenPipeline": "pipeline",
    "GuideGenStream": "dataset",
    "Lesion": "reports.findings",
    "ShardReader": "shards.reader",
    "abstract_report": "reports.abstraction",
    "label_set": "label_maps",
    "mix": "dataset",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'guidegen_data' has no attribute {name!r}; it offers {', '.join(__all__)}.")
    return getattr(import_module(f"guidegen_data.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
