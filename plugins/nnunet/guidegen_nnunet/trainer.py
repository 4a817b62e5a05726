"""nnUNetTrainerGuideGen: nnU-Net's own training, with a set share of every batch from synthetic cases."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as baseline
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from guidegen_nnunet import checks
from guidegen_nnunet.folders import SPLITS, NnUNetError, is_synthetic
from guidegen_nnunet.plan import noted_export, refuse_unless_planned_from_real
from guidegen_nnunet.settings import PREFIX, Settings
from guidegen_nnunet.splits import refuse_synthetic_validation


class MixedDataLoader(nnUNetDataLoader):
    """Batches of which `data.synthetic_fraction` is synthetic: rounded down or up at random, right on average."""

    @cached_property
    def _real_and_synthetic(self) -> tuple[list[str], list[str]]:
        return [i for i in self.indices if not is_synthetic(i)], [i for i in self.indices if is_synthetic(i)]

    def get_indices(self) -> np.ndarray:
        """Identifiers of one batch (B,). Their order is random: nnU-Net centres the last of a batch on foreground."""
        real, synthetic = self._real_and_synthetic
        fraction = float(self._data.synthetic_fraction)
        # The global generator is the one that nnU-Net seeds anew in each of its worker processes.
        num_synthetic = math.floor(fraction * self.batch_size + np.random.uniform())  # noqa: NPY002
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

    Refuses (NnUNetError) before the first step: a cascade, synthetic cases in validation, a fold that is not there,
    plans or fingerprint not made from the real cases alone, data preprocessed from an export before, labels or channels
    that do not match, no synthetic case to draw, a longer schedule than the baseline's, a resumed training with other
    settings.
    """

    #: Settings that this trainer acts on.
    uses: ClassVar[tuple[str, ...]] = ("fraction",)

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
        num_epochs: int = self.num_epochs
        self._baseline_iterations = num_epochs * self.num_iterations_per_epoch
        self.num_epochs: int = self.settings.epochs or num_epochs
        self._planned_epochs = self.num_epochs
        # Shared with nnU-Net's loading processes, which draw by it.
        self._fraction = torch.zeros(1, dtype=torch.float64).share_memory_()
        self._num_drawn = self._num_drawn_synthetic = 0

    def fraction_at(self, epoch: int) -> float:
        """Share of the batches of an epoch that is synthetic."""
        return self.settings.fraction

    def on_train_start(self) -> None:
        """Every check, then the settings into the log and, through the init arguments, into every checkpoint."""
        record = self._check()
        # nnU-Net saves the init arguments with every checkpoint and puts them back when a training is resumed.
        resumed = self.my_init_kwargs.setdefault("guidegen", record)
        if resumed != record:
            changed = sorted(name for name in {*resumed, *record} if resumed.get(name) != record.get(name))
            wishes = " and ".join(f"{PREFIX}{n.upper()}={resumed[n]}" for n in changed if n in self.uses)
            raise NnUNetError(
                f"this training was begun with {resumed}, but would go on with {record}; set "
                f"{wishes or 'the same data set and schedule'}, or begin a new one without --c."
            )
        self.print_to_log_file(f"GuideGen: {record}")
        self._fraction[0] = self.fraction_at(self.current_epoch)
        super().on_train_start()

    def _check(self) -> dict[str, Any]:
        """The settings and the cases they act on, as they go into the log and the checkpoint."""
        checks.refuse_cascade(self.is_cascaded, self.configuration_name)
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        present = set(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))
        self._refuse_plans(checks.count_kinds(sorted(present))["num_real"])
        checks.refuse_other_labels(self.dataset_json, checks.read_record(self._preprocessed), self._preprocessed.name)
        checks.refuse_longer_schedule(
            max(self.num_epochs, self._planned_epochs) * self.num_iterations_per_epoch,
            self._baseline_iterations,
            type(self).__name__,
        )
        tr_keys, val_keys = self.do_split()
        checks.refuse_missing_cases({*tr_keys, *val_keys}, present)
        counts = checks.count_kinds(tr_keys)
        self._refuse_cases(counts)
        schedule = {"num_epochs": self.num_epochs, "num_iterations_per_epoch": self.num_iterations_per_epoch}
        return self.settings.record(self.uses) | counts | schedule

    @property
    def _preprocessed(self) -> Path:
        return Path(self.preprocessed_dataset_folder_base)

    def _refuse_plans(self, num_real: int) -> None:
        data = self.configuration_manager.data_identifier
        refuse_unless_planned_from_real(self.plans_manager.plans, self._preprocessed, num_real, data)
        if noted_export(self._preprocessed, data) is None:
            self.print_to_log_file(
                f"GuideGen: nobody noted which export {data} was preprocessed from (nnU-Net's own command did it, or a "
                f"version before); if the data set was exported again since, preprocess it again"
            )

    def _refuse_cases(self, counts: dict[str, int]) -> None:
        if not counts["num_real"] or not counts["num_synthetic"]:
            raise NnUNetError(
                f"expected real and synthetic cases in the training fold, got {counts['num_real']} and "
                f"{counts['num_synthetic']}; use the {SPLITS} of `guidegen nnunet export`, or train with nnUNetTrainer."
            )

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation identifiers. Fold `all` trains on everything and validates on the real cases."""
        splits_file = self._preprocessed / SPLITS
        if self.fold != "all" and not splits_file.is_file():
            # nnU-Net would make one, with synthetic cases in every validation fold.
            raise NnUNetError(
                f"expected {splits_file}, but there is none; run `guidegen nnunet plan` on this data set."
            )
        if self.fold != "all":
            checks.refuse_missing_fold(self.fold, splits_file)
        tr_keys, val_keys = super().do_split()
        if self.fold == "all":
            val_keys = [i for i in val_keys if not is_synthetic(i)]
        refuse_synthetic_validation(val_keys, f"fold {self.fold} of {splits_file}")
        return tr_keys, val_keys

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """nnU-Net's two data sets, the first with the share that it is drawn by."""
        dataset_tr, dataset_val = super().get_tr_and_val_datasets()
        dataset_tr.synthetic_fraction, dataset_val.synthetic_fraction = self._fraction, 0.0
        return dataset_tr, dataset_val

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's own, drawing mixed batches."""
        with _mixed_loaders():
            return super().get_dataloaders()

    def on_train_epoch_start(self) -> None:
        """Sets the share of this epoch; a few batches that nnU-Net has loaded ahead still have the last one's."""
        self._fraction[0] = self.fraction_at(self.current_epoch)
        super().on_train_epoch_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's, and a count of what was drawn."""
        self._num_drawn += len(batch["keys"])
        self._num_drawn_synthetic += sum(map(is_synthetic, batch["keys"]))
        return super().train_step(batch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Logs the share that was drawn."""
        share = self._num_drawn_synthetic / self._num_drawn
        self.print_to_log_file(f"GuideGen: {share:.4f} of {self._num_drawn} training patches were synthetic")
        self._num_drawn = self._num_drawn_synthetic = 0
        super().on_train_epoch_end(train_outputs)
