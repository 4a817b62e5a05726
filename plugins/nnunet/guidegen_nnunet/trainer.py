"""nnUNetTrainerGuideGen: nnU-Net's own training, with a set share of every batch from synthetic cases."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as baseline
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from guidegen_nnunet.folders import SPLITS, NnUNetError, is_synthetic
from guidegen_nnunet.plan import refuse_unless_planned_from_real
from guidegen_nnunet.settings import FRACTION, Settings
from guidegen_nnunet.splits import refuse_synthetic_validation


class MixedDataLoader(nnUNetDataLoader):
    """Batches of which `data.synthetic_fraction` is synthetic: rounded down or up at random, right on average."""

    @cached_property
    def _real_and_synthetic(self) -> tuple[list[str], list[str]]:
        return [i for i in self.indices if not is_synthetic(i)], [i for i in self.indices if is_synthetic(i)]

    def get_indices(self) -> np.ndarray:
        """Identifiers of one batch (B,). Their order is random: nnU-Net centres the last of a batch on foreground."""
        real, synthetic = self._real_and_synthetic
        # The global generator is the one that nnU-Net seeds anew in each of its worker processes.
        num_synthetic = math.floor(self._data.synthetic_fraction * self.batch_size + np.random.uniform())  # noqa: NPY002
        drawn = [np.random.choice(real, self.batch_size - num_synthetic)] if num_synthetic < self.batch_size else []  # noqa: NPY002
        drawn += [np.random.choice(synthetic, num_synthetic)] if num_synthetic else []  # noqa: NPY002
        return np.random.permutation(np.concatenate(drawn))  # noqa: NPY002


@contextmanager
def _mixed_loaders() -> Iterator[None]:
    """While inside, nnU-Net's get_dataloaders builds ours: it names the class in its body and offers no hook."""
    baseline.nnUNetDataLoader = MixedDataLoader
    try:
        yield
    finally:
        baseline.nnUNetDataLoader = nnUNetDataLoader


class nnUNetTrainerGuideGen(nnUNetTrainer):
    """The baseline in everything (schedule, augmentation, network, loss) but where a training patch comes from.

    Refuses (NnUNetError) before the first step: synthetic cases in validation, plans or fingerprint not made from the
    real cases alone, no synthetic case to draw, a resumed training with other settings.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.dataset_class: Any = None
        self.settings = Settings.from_environment()
        self._num_drawn = self._num_drawn_synthetic = 0

    def on_train_start(self) -> None:
        record = self._check()
        # nnU-Net saves the init arguments with every checkpoint and puts them back when a training is resumed.
        resumed = self.my_init_kwargs.setdefault("guidegen", record)
        if resumed != record:
            raise NnUNetError(
                f"this training was begun with {resumed}, but would go on with {record}; set {FRACTION}="
                f"{resumed['fraction']:g} and the same data set, or begin a new one without --c."
            )
        self.print_to_log_file(f"GuideGen: {record}")
        super().on_train_start()

    def _check(self) -> dict[str, float | int]:
        """The settings and the cases they act on, as they go into the log and the checkpoint."""
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        present = set(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))
        num_real = sum(not is_synthetic(i) for i in present)
        preprocessed = Path(self.preprocessed_dataset_folder_base)
        refuse_unless_planned_from_real(self.plans_manager.plans, preprocessed, num_real)
        tr_keys, val_keys = self.do_split()
        missing = sorted({*tr_keys, *val_keys} - present)
        if missing:
            raise NnUNetError(f"{len(missing)} cases of the fold are not preprocessed, first {missing[0]}; plan again.")
        num_synthetic = sum(map(is_synthetic, tr_keys))
        if not num_synthetic or num_synthetic == len(tr_keys):
            raise NnUNetError(
                f"expected real and synthetic cases in the training fold, got {len(tr_keys) - num_synthetic} and "
                f"{num_synthetic}; use the {SPLITS} of `guidegen nnunet export`, or train with nnUNetTrainer."
            )
        return {
            "fraction": self.settings.fraction,
            "num_real": len(tr_keys) - num_synthetic,
            "num_synthetic": num_synthetic,
        }

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation identifiers. Fold `all` trains on everything and validates on the real cases."""
        splits_file = Path(self.preprocessed_dataset_folder_base) / SPLITS
        if self.fold != "all" and not splits_file.is_file():
            # nnU-Net would make one, with synthetic cases in every validation fold.
            raise NnUNetError(
                f"expected {splits_file}, but there is none; run `guidegen nnunet plan` on this data set."
            )
        tr_keys, val_keys = super().do_split()
        if self.fold == "all":
            val_keys = [i for i in val_keys if not is_synthetic(i)]
        refuse_synthetic_validation(val_keys, f"fold {self.fold} of {splits_file}")
        return tr_keys, val_keys

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        dataset_tr, dataset_val = super().get_tr_and_val_datasets()
        dataset_tr.synthetic_fraction, dataset_val.synthetic_fraction = self.settings.fraction, 0.0
        return dataset_tr, dataset_val

    def get_dataloaders(self) -> tuple[Any, Any]:
        with _mixed_loaders():
            return super().get_dataloaders()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self._num_drawn += len(batch["keys"])
        self._num_drawn_synthetic += sum(map(is_synthetic, batch["keys"]))
        return super().train_step(batch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        share = self._num_drawn_synthetic / self._num_drawn
        self.print_to_log_file(f"GuideGen: {share:.4f} of {self._num_drawn} training patches were synthetic")
        self._num_drawn = self._num_drawn_synthetic = 0
        super().on_train_epoch_end(train_outputs)
