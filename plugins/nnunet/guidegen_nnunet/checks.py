"""What a training must not begin with: each is refused with a sentence before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from guidegen_nnunet.folders import BOOKKEEPING, NnUNetError, is_synthetic, read_json, refuse_other_channels
from guidegen_nnunet.settings import PREFIX

#: nnU-Net leaves these out when it loads pre-trained weights.
_NOT_TRANSFERRED = ".seg_layers."


def read_record(preprocessed: Path) -> dict[str, Any] | None:
    """What `guidegen nnunet export` wrote about the synthetic cases; None for a data set of real cases alone."""
    return read_json(preprocessed / BOOKKEEPING) if (preprocessed / BOOKKEEPING).is_file() else None


def refuse_other_labels(dataset_json: dict[str, Any], record: dict[str, Any] | None, what: str) -> None:
    """NnUNetError unless channels and labels are those that the synthetic cases were exported for."""
    refuse_other_channels(dataset_json, what)
    if record is None:
        return
    before, now = record["labels"], dataset_json["labels"]
    if before != now:
        changed = sorted({n for n in {*before, *now} if before.get(n) != now.get(n)})
        raise NnUNetError(
            f"the labels of {what} are not those that its synthetic cases were exported for (changed: "
            f"{', '.join(changed)}), so one number would mean two things; run `guidegen nnunet export` again."
        )


def refuse_longer_schedule(num_iterations: int, baseline: int, what: str) -> None:
    """NnUNetError when a training would take more steps than the baseline it is compared with."""
    if num_iterations > baseline:
        raise NnUNetError(
            f"{what} would take {num_iterations} iterations, the baseline takes {baseline}: a longer training is no "
            f"fair comparison; leave the schedule alone, or shorten it with GUIDEGEN_NNUNET_EPOCHS."
        )


def refuse_half_without_epochs(pretraining: int, finetuning: int) -> None:
    """NnUNetError when pre-training or fine-tuning would have no epoch."""
    if not pretraining or not finetuning:
        raise NnUNetError(
            f"{PREFIX}PRETRAIN_SHARE of {pretraining + finetuning} epochs leaves {pretraining} for the pre-training "
            f"and {finetuning} for the fine-tuning; change it or {PREFIX}EPOCHS until each has one or more."
        )


def refuse_missing_cases(wanted: set[str], present: set[str]) -> None:
    """NnUNetError when cases of the fold are not preprocessed."""
    if missing := sorted(wanted - present):
        raise NnUNetError(f"{len(missing)} cases of the fold are not preprocessed, first {missing[0]}; plan again.")


def refuse_cascade(is_cascaded: bool, configuration: str) -> None:
    """NnUNetError for a configuration that needs the segmentations of a previous stage."""
    if is_cascaded:
        raise NnUNetError(
            f"expected a configuration without a previous stage, got {configuration}: nnU-Net predicts that stage "
            f"where it validates, and no synthetic case is validated on, so they have none; train 3d_fullres."
        )


def refuse_missing_fold(fold: int, splits_file: Path) -> None:
    """NnUNetError for a fold that the file lacks, for which nnU-Net would draw at random from all cases."""
    num_folds = len(read_json(splits_file))
    if not 0 <= fold < num_folds:
        raise NnUNetError(
            f"expected a fold from 0 to {num_folds - 1} of {splits_file}, got {fold}; choose one of them."
        )


def count_kinds(identifiers: list[str]) -> dict[str, int]:
    """How many of the cases are real and how many synthetic, as it goes into log and checkpoint."""
    num_synthetic = sum(map(is_synthetic, identifiers))
    return {"num_real": len(identifiers) - num_synthetic, "num_synthetic": num_synthetic}


def refuse_unless_pretrained(network: torch.nn.Module | None, checkpoint: Path, command: str) -> dict[str, Any]:
    """The record of the pre-training; NnUNetError unless it is finished and the network starts from its weights."""
    if not checkpoint.is_file():
        raise NnUNetError(f"expected a finished pre-training in {checkpoint}, but there is none; run {command} first.")
    saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    weights = {name: w for name, w in saved["network_weights"].items() if _NOT_TRANSFERRED not in name}
    ours = _plain(network).state_dict() if network is not None else {}
    if any(name not in ours or not torch.equal(ours[name].cpu(), value) for name, value in weights.items()):
        raise NnUNetError(
            f"the network does not start from the pre-trained weights; add -pretrained_weights {checkpoint} to the "
            f"command."
        )
    return saved["init_args"]["guidegen"]


def _plain(network: torch.nn.Module) -> torch.nn.Module:
    for wrapped in ("module", "_orig_mod"):  # of a distributed and of a compiled network
        network = getattr(network, wrapped, network)
    return network
