"""Trainers that spend the same number of iterations on synthetic cases in another order."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from guidegen_nnunet import checks
from guidegen_nnunet.trainer import nnUNetTrainerGuideGen


class nnUNetTrainerGuideGenSchedule(nnUNetTrainerGuideGen):
    """Begins with synthetic cases and ends with real ones: the share falls evenly from the first epoch to the last."""

    uses: ClassVar[tuple[str, ...]] = ("fraction_start", "fraction_end")

    def fraction_at(self, epoch: int) -> float:
        """See nnUNetTrainerGuideGen."""
        start, end = self.settings.fraction_start, self.settings.fraction_end
        return start + (end - start) * min(1.0, epoch / max(1, self.num_epochs - 1))


class _HalfOfTwo(nnUNetTrainerGuideGen):
    """A pre-training or its fine-tuning: together they take the baseline's number of iterations.

    NnUNetError besides the reasons of nnUNetTrainerGuideGen: one of the two has no epoch.
    """

    uses: ClassVar[tuple[str, ...]] = ("pretrain_share",)

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        pretraining = round(self._planned_epochs * self.settings.pretrain_share)
        finetuning = self._planned_epochs - pretraining
        # Now: the learning rate is a fraction of their number, which nnU-Net divides by before its training starts.
        checks.refuse_half_without_epochs(pretraining, finetuning)
        self.num_epochs = self._epochs_of(pretraining, finetuning)

    def _epochs_of(self, pretraining: int, finetuning: int) -> int:
        raise NotImplementedError


class nnUNetTrainerGuideGenPretrain(_HalfOfTwo):
    """The first part of the baseline's epochs, on synthetic patches alone; validated on the real cases of the fold."""

    def _epochs_of(self, pretraining: int, finetuning: int) -> int:
        return pretraining

    def fraction_at(self, epoch: int) -> float:
        """See nnUNetTrainerGuideGen."""
        return 1.0


class nnUNetTrainerGuideGenFinetune(_HalfOfTwo):
    """The rest of them, on real patches alone, from the weights of nnUNetTrainerGuideGenPretrain.

    Start it with -pretrained_weights; NnUNetError when the network does not have those weights, or when the two
    trainings together would be longer than the baseline.
    """

    def _epochs_of(self, pretraining: int, finetuning: int) -> int:
        return finetuning

    def fraction_at(self, epoch: int) -> float:
        """See nnUNetTrainerGuideGen."""
        return 0.0

    def _check(self) -> dict[str, Any]:
        record = super()._check()
        if "guidegen" in self.my_init_kwargs:  # resumed: the weights have moved on since
            return record | {"pretrained": self.my_init_kwargs["guidegen"]["pretrained"]}
        folder = Path(self.output_folder_base)
        other = folder.with_name(folder.name.replace(type(self).__name__, "nnUNetTrainerGuideGenPretrain"))
        pretrained = checks.refuse_unless_pretrained(
            self.network,
            other / f"fold_{self.fold}" / "checkpoint_final.pth",
            "nnUNetv2_train with -tr nnUNetTrainerGuideGenPretrain on the same data set, configuration and fold",
        )
        num_before = pretrained["num_epochs"] * pretrained["num_iterations_per_epoch"]
        checks.refuse_longer_schedule(
            num_before + self.num_epochs * self.num_iterations_per_epoch,
            self._planned_epochs * self.num_iterations_per_epoch,
            "pre-training and fine-tuning together",
        )
        return record | {"pretrained": pretrained}
