"""Fresh synthetic cases beside a training: a process makes, preprocesses and replaces them in a small folder."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from guidegen_data import Anatomy, GuideGenStream
from guidegen_data.anatomy import anatomy_named
from guidegen_data.models.folder import anatomy_name_of, anatomy_of, model_folder
from guidegen_nnunet.folders import NnUNetError
from guidegen_nnunet.settings import Settings

#: What a fresh case is called in a batch; which one it was stays open, as each is seen a few times and then gone.
FRESH = "guidegen_000000000"
_CASE, _FAILED, _HIDDEN = "case", "failed.txt", "."


@dataclass(frozen=True)
class FreshSource:
    """All that the process needs. `label_ids` are our names -> their ids, `codes` the orientation of the real cases."""

    folder: Path
    settings: Settings
    label_ids: dict[str, int]
    codes: tuple[str, str, str]
    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    epoch: int
    rank: int
    world_size: int


class FreshCases:
    """The folder of fresh cases and the process that fills it; `stop()` ends both, and so does the end of this one."""

    def __init__(self, source: FreshSource) -> None:
        self._source = source
        # Not forked: the training process may hold a GPU, with which a forked one cannot work.
        self._process = multiprocessing.get_context("spawn").Process(target=produce, args=(source,), daemon=True)
        self._process.start()
        # Also when the training ends by an error, and in this process only, not in those that it forks.
        self.stop = Finalize(None, _end, (self._process, source.folder), exitpriority=10)

    def wait_for_first(self) -> None:
        """Return when there is a case to draw. NnUNetError when the process failed before."""
        while not _ready(self._source.folder):
            self.refuse_failed()
            time.sleep(0.1)

    def refuse_failed(self) -> None:
        """NnUNetError when the process is no longer at work."""
        if not self._process.is_alive():
            said = self._source.folder / _FAILED
            reason = said.read_text() if said.is_file() else f"exit code {self._process.exitcode}"
            raise NnUNetError(f"the generation of fresh cases ended: {reason}")

    @property
    def num_made(self) -> int:
        """Cases made so far in this run."""
        ready = _ready(self._source.folder)
        return int(ready[-1].name) + 1 if ready else 0


def load_fresh(folder: Path) -> tuple[Any, Any, None, dict[str, Any]]:
    """nnU-Net's (data, seg, None, properties) of one of the cases that are there. NnUNetError when there are none."""
    for _ in range(100):
        ready = _ready(folder)
        if not ready:
            break
        place = ready[np.random.randint(len(ready))]  # noqa: NPY002 - nnU-Net seeds this one in each of its workers
        try:
            return nnUNetDatasetBlosc2(str(place), [_CASE]).load_case(_CASE)
        except (FileNotFoundError, RuntimeError):  # replaced this very moment
            continue
    raise NnUNetError(f"no fresh case can be read from {folder}; look into the training log for why they ended.")


def produce(source: FreshSource) -> None:
    """Fill the folder until the process is ended. What goes wrong is left there as a sentence."""
    os.environ |= {"RANK": str(source.rank), "WORLD_SIZE": str(source.world_size)}
    try:
        for number, item in enumerate(open_stream(source)):
            _add(source, number, item)
            for place in _ready(source.folder)[: -source.settings.num_kept]:
                hidden = place.with_name(f"{_HIDDEN}old-{place.name}")
                place.rename(hidden)
                shutil.rmtree(hidden)
            if (parent := multiprocessing.parent_process()) and not parent.is_alive():  # killed
                shutil.rmtree(source.folder, ignore_errors=True)
                return
    except Exception as error:
        (source.folder / _FAILED).write_text(f"{type(error).__name__}: {error}")
        raise


def open_stream(source: FreshSource) -> GuideGenStream:
    """The endless cases of a training, from the epoch where it begins or goes on."""
    settings = source.settings
    stream = GuideGenStream(settings.model, seed=settings.seed, device=settings.device, label_map=source.label_ids)
    stream.set_epoch(source.epoch)
    return stream


def model_anatomy(model: str) -> Anatomy:
    """The label table of a model by name or folder, without loading it.

    ModelError when there is no such model, AnatomyError when its own table is damaged or its name is taken by another.
    """
    folder = model_folder(model)
    return anatomy_of(folder) or anatomy_named(anatomy_name_of(folder))


def commonest_codes(properties: list[dict[str, Any]]) -> tuple[str, str, str]:
    """The orientation in which most preprocessed real cases were read, e.g. ('L', 'P', 'S').

    nnU-Net ignores directions and sees the stored order, so a synthetic case in another one would be mirrored.
    """
    return Counter(_codes(p) for p in properties).most_common(1)[0][0]


def preprocess(
    item: dict[str, Any],
    codes: tuple[str, str, str],
    plans: PlansManager,
    configuration: str,
    dataset_json: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """(data (1, z, y, x), seg (1, z, y, x), properties) of an item as nnU-Net's own preprocessing gives them."""
    affine = np.asarray(item["image"].affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    image, seg = (
        nib.orientations.apply_orientation(item[key][0].numpy(), turn).transpose(2, 1, 0)[None]
        for key in ("image", "label")
    )
    spacing = nib.affines.voxel_sizes(affine @ nib.orientations.inv_ornt_aff(turn, item["image"].shape[1:]))[::-1]
    manager = plans.get_configuration(configuration)
    return manager.preprocessor_class(verbose=False).run_case_npy(
        image, seg.astype(np.int16), {"spacing": [float(s) for s in spacing]}, plans, manager, dataset_json
    )


def _add(source: FreshSource, number: int, item: dict[str, Any]) -> None:
    plans = PlansManager(source.plans)
    data, seg, properties = preprocess(item, source.codes, plans, source.configuration, source.dataset_json)
    data, seg = data.astype(np.float32, copy=False), seg.astype(np.int16, copy=False)
    patch = tuple(plans.get_configuration(source.configuration).patch_size)
    blocks, chunks = comp_blosc2_params(data.shape, patch, data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, patch, seg.itemsize)
    hidden = source.folder / f"{_HIDDEN}{number:09d}"
    hidden.mkdir()
    nnUNetDatasetBlosc2.save_case(
        data,
        seg,
        properties,
        str(hidden / _CASE),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks_seg,
        blocks_seg=blocks_seg,
    )
    hidden.rename(source.folder / f"{number:09d}")


def _end(process: Any, folder: Path) -> None:
    process.terminate()
    process.join()
    shutil.rmtree(folder, ignore_errors=True)


def _ready(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith(_HIDDEN))


def _codes(properties: dict[str, Any]) -> tuple[str, str, str]:
    if "sitk_stuff" in properties:
        direction = np.reshape(properties["sitk_stuff"]["direction"], (3, 3))
        affine = np.eye(4)
        affine[:3, :3] = np.diag([-1, -1, 1]) @ direction  # SimpleITK's world is LPS, nibabel's RAS
    else:
        stored = properties["nibabel_stuff"]
        affine = np.asarray(stored.get("reoriented_affine", stored["original_affine"]))
    return nib.aff2axcodes(affine)
