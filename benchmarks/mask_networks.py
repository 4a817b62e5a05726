"""Our stage 1 network beside MONAI's DiffusionModelUNet on the same 64^3 grid, data and loss, for an equal time.

python -m benchmarks.mask_networks PREPARED --seconds 50: forward time, then the training loss each reaches. A minute of
training orders the two by speed of learning only; it says nothing about where they end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from benchmarks.record import save
from guidegen_data.anatomy import TORSO
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.diffusion.categorical import CategoricalScheduler, one_hot
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler, mask_loss
from guidegen_data.models.precision import compute_dtype, mixed_precision
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.fields import field_names
from guidegen_data.training.masks import MaskData, load_mask_data

FIELDS = field_names(TORSO)


def our_sampler() -> MaskSampler:
    """The sampler of the default model, untrained."""
    return MaskSampler(fields=FIELDS)


class MonaiSampler(nn.Module):
    """MONAI's U-Net with the signature of MaskSampler: one-hot labels in, logits out, cross-attention at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=TORSO.num_classes,
            out_channels=TORSO.num_classes,
            num_res_blocks=1,
            channels=(16, 32, 64, 128),
            attention_levels=(False, False, False, True),
            norm_num_groups=16,
            num_head_channels=32,
            with_conditioning=True,
            cross_attention_dim=384,
        )

    def forward(self, x_t: Tensor, t: Tensor, abar_t: Tensor, condition: MaskCondition) -> Tensor:
        """Logits (B, K, X, Y, Z)."""
        tokens = condition.tokens
        return self.net(one_hot(x_t, TORSO.num_classes, tokens.dtype), t * 1000, context=tokens).float()


def forward_ms(model: nn.Module) -> float:
    """Milliseconds of one bf16 forward pass at 64^3, batch 1."""
    dtype = compute_dtype(torch.device("cpu"))
    labels, tokens = torch.randint(21, (1, 64, 64, 64)), torch.randn(1, 96, 384, dtype=dtype)
    condition = MaskCondition(tokens, torch.zeros(1, len(FIELDS)), torch.zeros(1, 64, 64, 64))
    model = model.to(dtype).eval()
    with torch.inference_mode():
        model(labels, torch.ones(1), torch.full((1,), 0.1), condition)
        began = time.perf_counter()
        for _ in range(3):
            model(labels, torch.ones(1), torch.full((1,), 0.1), condition)
    return round((time.perf_counter() - began) / 3 * 1000, 1)


def train(make: Callable[[], nn.Module], data: MaskData, seconds: float) -> dict[str, float]:
    """Steps and mean loss of the last ten after training for so long; batch 2, AdamW, mixed precision."""
    torch.manual_seed(0)
    model, process = make(), CategoricalScheduler().process
    optimizer, weight = torch.optim.AdamW(model.parameters(), lr=8e-4), data.class_weight()
    losses: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        generator = torch.Generator().manual_seed(len(losses))
        labels, condition = data.batch(2, generator)
        with mixed_precision(torch.device("cpu")):
            loss = mask_loss(model, process, labels, condition, weight, generator)["total"]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return {"steps": len(losses), "loss": round(sum(losses[-10:]) / len(losses[-10:]), 3)}


def main() -> None:
    """Measures both and writes results/mask_networks.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepared", type=Path, help="folder of `guidegen prepare`")
    parser.add_argument("--seconds", type=float, default=50)
    args = parser.parse_args()
    keep_freed_memory()
    data = load_mask_data(args.prepared, TORSO, TextEncoder(), (64, 64, 64))
    figures = {}
    for name, make in (("ours", our_sampler), ("monai", MonaiSampler)):
        parameters = round(sum(p.numel() for p in make().parameters()) / 1e6, 2)
        figures[name] = {"parameters_m": parameters, "forward_ms": forward_ms(make())}
        figures[name] |= train(make, data, args.seconds)
    path = save("mask_networks", figures | {"seconds": args.seconds}, seed=0)
    record = json.loads(path.read_text())
    record["command"] = record["command"].replace(str(args.prepared), "PREPARED")
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
