"""Networks multiply in bfloat16 only where that is native: elsewhere it takes many times as long as float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from guidegen_data.models.precision import compute_dtype, mixed_precision
from guidegen_data.training.fit import FitConfig, fit

CPU = torch.device("cpu")


def _dtype_of_products(wanted: bool = True) -> torch.dtype:
    with mixed_precision(CPU, wanted):
        return nn.Linear(2, 2)(torch.ones(1, 2)).dtype


@pytest.mark.parametrize("unit", ["avx512_bf16", "amx_bf16", "amx_tile"])
def test_a_cpu_with_bfloat16_units_uses_them(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True})
    assert compute_dtype(CPU) == _dtype_of_products() == torch.bfloat16
    assert _dtype_of_products(wanted=False) == torch.float32


def test_a_cpu_without_them_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert compute_dtype(CPU) == _dtype_of_products() == torch.float32


def test_an_older_gpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert compute_dtype(torch.device("cuda")) == torch.float32


@pytest.mark.parametrize(("unit", "dtype"), [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_training_follows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unit: str, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True})
    seen = set()

    def loss_of(model: nn.Module, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        y = model(torch.ones(1, 2))
        seen.add(y.dtype)
        return {"total": y.float().square().mean()}

    for _ in fit(nn.Linear(2, 2), nn.Linear(2, 2), loss_of, FitConfig(num_steps=2), tmp_path):
        pass
    assert seen == {dtype}
