"""A device 'pretend' for machines without a GPU: computes on the CPU, and refuses what a GPU refuses.

Its tensors wrap tensors of the CPU. An operation on tensors of both devices raises, as on a GPU, but for copies and
CPU indices, and so do random numbers from a generator of the other device. It has no float64, as MPS has none. Made
once a process: PyTorch has one such device. Run as a script it does `everything` in a new folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

# Wrapped tensors are not made for inference mode, which code under test asks for while it is imported.
torch.inference_mode = torch.no_grad

import little_patients  # noqa: E402
from diffusers import ModelMixin  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils import backend_registration  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map  # noqa: E402

from guidegen_data.cli.main import main  # noqa: E402
from guidegen_data.models.text import TextEncoder  # noqa: E402
from guidegen_data.pipeline import GuideGenPipeline  # noqa: E402

NAME = "pretend"
backend_registration._setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)
_COPIES = {"aten::_to_copy", "aten::copy_"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_SHORT = ["--recipe", "tiny", "--num-steps", "2", "--validate-every", "2", "--device", NAME]


class OnDevice(Tensor):
    """Says that it is on the device; `held` has the values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        if isinstance(held, OnDevice):
            return held
        if held.dtype == torch.float64:
            raise TypeError(f"Cannot convert a tensor to float64 on {DEVICE}, which has none; neither has MPS.")
        about = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.size(), layout=held.layout, device=DEVICE, **about)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()


def _held(tree: Any) -> Any:
    return tree_map(lambda t: t.held if isinstance(t, OnDevice) else t, tree)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, told = func._schema.name, kwargs.get("device")
    if name == "aten::_has_compatible_shallow_copy_type":
        return False  # a module that moves takes new parameters
    leaves = tree_flatten((args, kwargs))[0]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    there = any(isinstance(t, OnDevice) for t in tensors)
    on_device = there if told is None else torch.device(told).type == NAME
    if there and told is None and name not in _COPIES | _INDEXING:
        for t in tensors:
            if t.dim() and not isinstance(t, OnDevice):
                raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got {DEVICE} and cpu.")
    if (on_device or there) and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"Expected a {NAME!r} device type for generator but found 'cpu' in {name}.")
    plain = {} if told is None else {"device": torch.device("cpu")}
    out = func(*_held(args), **{**_held(kwargs), **plain})
    if func._schema.is_mutable and isinstance(out, Tensor):
        return args[0] if args else kwargs["out"]
    return tree_map(lambda t: OnDevice(t) if isinstance(t, Tensor) else t, out) if on_device else out


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **other: Any) -> Tensor:
    return OnDevice(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    _held(to).copy_(_held(source))
    return to


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


@contextmanager
def pretended() -> Iterator[None]:
    """Within it 'pretend' is a device. What wrapped tensors cannot do themselves, files and vmap, is done for them."""
    saved_model, saved, encoded = ModelMixin.save_pretrained, torch.save, TextEncoder.__call__

    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> None:
        with _disable_current_modes():
            model = type(self)(**{k: v for k, v in self.config.items() if not k.startswith("_")})
            model.load_state_dict(_held(self.state_dict()))
            saved_model(model, *args, **kwargs)

    def save(content: Any, *args: Any, **kwargs: Any) -> None:
        with _disable_current_modes():
            saved(_held(content), *args, **kwargs)

    def encode(self: Any, prompts: list[str]) -> Tensor:  # on the CPU, by design
        with _disable_current_modes():
            return encoded(self, prompts)

    ModelMixin.save_pretrained, torch.save, TextEncoder.__call__ = save_pretrained, save, encode
    try:
        with _Mode():
            yield
    finally:
        ModelMixin.save_pretrained, torch.save, TextEncoder.__call__ = saved_model, saved, encoded


def everything(folder: Path) -> None:
    """All commands that compute, on small patients, and a case of their model; SystemExit where one fails."""
    little_patients.write_nifti(folder / "src", 8)
    table, data, runs = folder / "src" / "anatomy.yaml", folder / "out", folder / "runs"
    _guidegen("prepare", "nifti", folder / "src", data, "--anatomy", table, "--validation-share", "0.25")
    autoencoder, parts = ("--autoencoder", runs / "autoencoder"), ("--tissue", runs / "tissue")
    with pretended():
        for stage, more in {
            "autoencoder": (),
            "masks": (),
            "tissue": (),
            "slices": (*autoencoder, *parts),
            "decoder": ("--autoencoder", runs / "slices"),
            "detail": ("--classes", "liver"),
        }.items():
            _guidegen("train", stage, data, runs / stage, *more, *_SHORT)
        _guidegen("complete", data, folder / "completed", "--classes", "spleen", "--num-steps", 2, "--device", NAME)
    stages = (runs / "masks", runs / "slices", folder / "model", "--decoder", runs / "decoder")
    _guidegen("export", *stages, "--detail", runs / "detail", "--anatomy", table)
    with pretended():
        pipe = GuideGenPipeline.from_pretrained(folder / "model", device=NAME)
        case = pipe("Liver enlarged with a 30 mm lesion. Spleen absent.")[0]
        _guidegen("evaluate", folder / "model", data, "--num", 2, "--out", folder / "evaluation", "--device", NAME)
    assert next(pipe.detail_network.parameters()).device == DEVICE
    assert case.ct_hu.shape == case.label_map.shape == (32, 32, 32)


def _guidegen(*words: Any) -> None:
    if main([str(word) for word in words]):
        sys.exit(f"guidegen {words[0]} {words[1]} failed on the device")


if __name__ == "__main__":
    everything(Path(sys.argv[1]))
    print("done")
