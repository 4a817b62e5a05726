"""Lets a CUDA-linked torchvision be imported beside a CPU build of torch, for tests on machines without a GPU.

nnU-Net brings torchvision, whose wheel on the package index is built for CUDA; its Python side registers two operators
that only its compiled side defines. Put this folder on PYTHONPATH (or import the file) before torchvision is imported.
It costs nothing until then and does nothing where torchvision fits torch.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_KEEP_ALIVE = []


def _define_missing_operators(origin: str | None) -> None:
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return
    try:
        torch.ops.load_library(str(Path(origin or "").parent / "_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEEP_ALIVE.append(library)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torchvision")
        if spec is not None:
            _define_missing_operators(spec.origin)
        return spec


sys.meta_path.insert(0, _Finder())
