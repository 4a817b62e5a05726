"""nnUNetTrainerGuideGenStream: the synthetic part of every batch comes from cases generated during the training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

from batchgenerators.utilities.file_and_folder_operations import load_pickle
from torch import distributed

from guidegen_nnunet import checks
from guidegen_nnunet.folders import SPLITS, NnUNetError, is_synthetic
from guidegen_nnunet.fresh import FRESH, FreshCases, FreshSource, commonest_codes, load_fresh, model_anatomy
from guidegen_nnunet.labels import parse_label_map, project
from guidegen_nnunet.plan import STAMP
from guidegen_nnunet.trainer import nnUNetTrainerGuideGen


class RealAndFresh:
    """nnU-Net's data set of the real cases, with one more identifier that loads any of the fresh ones."""

    def __init__(self, real: Any, folder: Path) -> None:
        self._real, self._folder = real, folder
        self.identifiers = [*real.identifiers, FRESH]

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """(data, seg, seg of the previous stage, properties)."""
        return load_fresh(self._folder) if identifier == FRESH else self._real.load_case(identifier)


class nnUNetTrainerGuideGenStream(nnUNetTrainerGuideGen):
    """Mixes in cases that a second process generates while this one trains; none of them is kept.

    Works on a data set of real cases alone (planned by nnU-Net or by us) and on a merged one, whose exported synthetic
    cases it leaves aside. NnUNetError besides the reasons of nnUNetTrainerGuideGen: a generation that fails.
    """

    uses: ClassVar[tuple[str, ...]] = ("fraction", "model", "seed", "label_map", "num_kept")
    _fresh: FreshCases | None = None

    def on_train_start(self) -> None:
        """Starts the generation after the checks, and the training when the first case is there."""
        try:
            super().on_train_start()
        except BaseException:
            self._stop()
            raise

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """The real cases with the fresh ones, and the validation cases."""
        dataset_tr, dataset_val = super().get_tr_and_val_datasets()
        folder = Path(tempfile.mkdtemp(prefix="guidegen-fresh-"))
        self._fresh = FreshCases(self._source(folder, dataset_tr))
        self.print_to_log_file("GuideGen: waiting for the first fresh case")
        self._fresh.wait_for_first()
        mixed = RealAndFresh(dataset_tr, folder)
        mixed.synthetic_fraction = self._fraction  # type: ignore[attr-defined]
        return mixed, dataset_val

    def do_split(self) -> tuple[list[str], list[str]]:
        """The fold's real cases. nnU-Net may make the folds itself where no synthetic case is stored."""
        stored = self.dataset_class.get_identifiers(self.preprocessed_dataset_folder) if self.dataset_class else []
        if self.fold != "all" and not (self._preprocessed / SPLITS).is_file() and not any(map(is_synthetic, stored)):
            super(nnUNetTrainerGuideGen, self).do_split()
        tr_keys, val_keys = super().do_split()
        return [i for i in tr_keys if not is_synthetic(i)], val_keys

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Logs how many cases were made; NnUNetError when no more come."""
        assert self._fresh is not None
        self._fresh.refuse_failed()
        self.print_to_log_file(f"GuideGen: {self._fresh.num_made} fresh cases made so far")
        super().on_train_epoch_end(train_outputs)

    def on_train_end(self) -> None:
        """Ends the generation once nnU-Net's loading processes have ended."""
        super().on_train_end()
        self._stop()

    def _stop(self) -> None:
        if self._fresh is not None:
            self._fresh.stop()
            self._fresh = None

    def _refuse_plans(self, num_real: int) -> None:
        if STAMP in self.plans_manager.plans or checks.read_record(self._preprocessed) is not None:
            super()._refuse_plans(num_real)
        elif (counted := self.dataset_json["numTraining"]) != num_real:
            raise NnUNetError(
                f"the plans count {counted} cases, but {num_real} real ones are preprocessed, so synthetic ones may be "
                f"among them; plan the real data set alone, or use `guidegen nnunet plan`."
            )

    def _refuse_cases(self, counts: dict[str, int]) -> None:
        if not counts["num_real"]:
            raise NnUNetError("expected real cases in the training fold, got none; choose another fold.")

    def _check(self) -> dict[str, Any]:
        record = super()._check()
        self._label_ids = self._project()
        return record | {"label_of_class": self._label_ids}

    def _project(self) -> dict[str, int]:
        exported = checks.read_record(self._preprocessed)
        if exported is not None and not self.settings.label_map:
            # Versions before told what was dropped beside the label of each class alone.
            lesion = model_anatomy(self.settings.model).lesion_class
            dropped = {lesion: 0} if lesion in exported["dropped_classes"] else {}
            return dropped | exported["label_of_class"]
        label_map = parse_label_map(self.settings.label_map) if self.settings.label_map else {}
        labels = project(model_anatomy(self.settings.model), self.dataset_json["labels"], label_map)
        for notice in labels.notices():
            self.print_to_log_file(f"GuideGen: {notice}")
        return labels.mapped

    def _source(self, folder: Path, real: Any) -> FreshSource:
        stored = Path(self.preprocessed_dataset_folder)
        return FreshSource(
            folder=folder,
            settings=self.settings,
            label_ids=self._label_ids,
            codes=commonest_codes([load_pickle(str(stored / f"{i}.pkl")) for i in real.identifiers]),
            plans=self.plans_manager.plans,
            configuration=self.configuration_name,
            dataset_json=self.dataset_json,
            epoch=self.current_epoch,
            rank=self.local_rank,
            world_size=distributed.get_world_size() if self.is_ddp else 1,
        )
