"""MONAI's SegResNet on real and synthetic cases together, with a progress bar and the Dice of real cases as a PNG.

python -m benchmarks.examples.segresnet_mixed REAL SHARDS --label-map liver=1,spleen=2 --fraction 0.5 --epochs 20

REAL holds NAME_ct.nii.gz (HU) and NAME_label.nii.gz; its labels are those that --label-map sends ours to. One real case
in five is kept for validation, and no synthetic case is ever validated on. --fraction 0 is the baseline: it takes as
many steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import SegResNet
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandScaleIntensityd,
    ScaleIntensityRanged,
    SelectItemsd,
    Spacingd,
    SpatialPadd,
)
from monai.utils import set_determinism
from tqdm import tqdm

from guidegen_data import GuideGenDataset, GuideGenError, mix

KEYS = ("image", "label")


@dataclass(frozen=True)
class Options:
    """A training. `patch` in voxels of `spacing_mm`; `label_map` sends our class names to the real labels."""

    label_map: dict[str, int]
    fraction: float = 0.5
    epochs: int = 20
    patch: int = 64
    batch_size: int = 2
    spacing_mm: float = 3.0
    init_filters: int = 16
    learning_rate: float = 1e-3
    seed: int = 0
    device: str = "cpu"


def real_cases(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """File names of the cases to train and to validate on: every fifth is for validation, and at least one."""
    images = sorted(folder.glob("*_ct.nii.gz"))
    cases = [{"image": str(p), "label": str(p).replace("_ct.nii.gz", "_label.nii.gz")} for p in images]
    if len(cases) < 2:
        raise GuideGenError(f"expected two real cases or more in {folder}, got {len(cases)}; add NAME_ct.nii.gz files.")
    return [c for i, c in enumerate(cases) if i % 5], cases[::5]


def preprocessing(options: Options) -> list[Any]:
    """What real and synthetic cases go through alike, from HU and any grid on."""
    return [
        Orientationd(KEYS, axcodes="RAS", labels=None),
        Spacingd(KEYS, (options.spacing_mm,) * 3, mode=("bilinear", "nearest")),
        ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True),
        SpatialPadd(KEYS, (options.patch,) * 3),
        # Nothing else is trained on, and what one kind lacks need not be read.
        SelectItemsd(KEYS),
    ]


def augmentation(options: Options) -> Compose:
    """One random patch; no mirroring from left to right, which would make a patient of another kind."""
    return Compose(
        [
            RandCropByPosNegLabeld(KEYS, "label", (options.patch,) * 3, pos=2, neg=1),
            RandFlipd(KEYS, prob=0.5, spatial_axis=1),
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
        ]
    )


def fit(real: Path, shards: str, options: Options) -> Iterator[tuple[int, float, float]]:
    """Train; after every epoch (epoch, mean loss, Dice of the real validation cases)."""
    set_determinism(options.seed)
    load = [LoadImaged(KEYS), EnsureChannelFirstd(KEYS)]
    training, validation = real_cases(real)
    ours = GuideGenDataset(shards, transform=Compose(preprocessing(options)), label_map=options.label_map)
    theirs = CacheDataset(training, Compose([*load, *preprocessing(options)]), num_workers=0, progress=False)
    held_out = CacheDataset(validation, Compose([*load, *preprocessing(options)]), num_workers=0, progress=False)
    mixed = mix(theirs, CacheDataset(ours, num_workers=0, progress=False), options.fraction, options.seed)
    loader = DataLoader(Dataset(mixed, augmentation(options)), batch_size=options.batch_size, shuffle=True)

    num_classes = max(options.label_map.values()) + 1
    network = SegResNet(3, options.init_filters, 1, num_classes, blocks_down=(1, 1, 2), blocks_up=(1, 1))
    network.to(options.device)
    optimizer = torch.optim.AdamW(network.parameters(), options.learning_rate)
    criterion = DiceCELoss(to_onehot_y=True, softmax=True)
    for epoch in range(options.epochs):
        mixed.set_epoch(epoch)
        losses = []
        bar = tqdm(loader, desc=f"epoch {epoch + 1}/{options.epochs}", unit="batch", disable=None, leave=False)
        for batch in bar:
            image, label = (batch[key].as_tensor().to(options.device) for key in KEYS)
            loss = criterion(network(image), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
        yield epoch, sum(losses) / len(losses), evaluate(network, held_out, num_classes, options)


@torch.inference_mode()
def evaluate(network: torch.nn.Module, cases: Dataset, num_classes: int, options: Options) -> float:
    """Mean Dice over the labels (no background) of whole cases; labels that a case lacks are left out."""
    network.eval()
    metric = DiceMetric(include_background=False)
    for item in cases:
        image = item["image"].as_tensor()[None].to(options.device)
        scores = sliding_window_inference(image, (options.patch,) * 3, 1, network, overlap=0.25)
        label = item["label"].as_tensor()[None].to(options.device)
        metric(one_hot(scores.argmax(1, keepdim=True), num_classes), one_hot(label, num_classes))
    network.train()
    return float(metric.aggregate().nan_to_num().item())


def draw(dice: Sequence[float], path: Path, title: str) -> None:
    """The Dice curve as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.plot(range(1, len(dice) + 1), dice, marker="o")
    axes.set(xlabel="epoch", ylabel="Dice of real validation cases", ylim=(0, 1), title=title)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print a line an epoch, write the curve; 1 with one sentence when something does not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path)
    parser.add_argument("shards")
    parser.add_argument("--label-map", required=True, help="class=label,...")
    parser.add_argument("--out", type=Path, default=Path("dice.png"))
    for name in ("fraction", "epochs", "patch", "batch_size", "spacing_mm", "init_filters", "seed"):
        default = getattr(Options, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = vars(parser.parse_args(arguments))
    real, shards, out = args.pop("real"), args.pop("shards"), args.pop("out")
    try:
        pairs = (entry.split("=") for entry in args.pop("label_map").split(","))
        options = Options({name: int(label) for name, label in pairs}, **args)
        dice = []
        for epoch, loss, score in fit(real, shards, options):
            dice.append(score)
            print(f"epoch {epoch + 1}: loss {loss:.4f}, Dice {score:.4f}", flush=True)
            draw(dice, out, f"SegResNet, {options.fraction:.0%} synthetic")
    except GuideGenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
