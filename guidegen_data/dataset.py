"""MONAI data sets of synthetic cases: from shards, generated on first use, or endless."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import apply_transform
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from guidegen_data.case import Case
from guidegen_data.errors import ShardError
from guidegen_data.shards.generators import device_kind, load_generator
from guidegen_data.shards.manifest import CT, LABEL, Recipe, key_of, to_json
from guidegen_data.shards.plan import CaseGenerator, ReportSource, generate_block, make_recipe
from guidegen_data.shards.reader import ShardReader, TarCases
from guidegen_data.shards.writer import encode_case, write_tar

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

_MAX_WORKERS = 1024
Item = dict[str, Any]


class GuideGenDataset(Dataset[Any]):
    """Map-style: `{"image": (1, X, Y, Z) float32 HU, "label": (1, X, Y, Z) uint8, "report": str, "meta": dict}`.

    `GuideGenDataset("shards/")` reads a shard folder; `GuideGenDataset(model="torso", n=200, seed=0)` generates each
    case when it is first asked for and keeps it in `cache_dir`, the very case that `guidegen-shard` makes for the same
    model, seed and index. `transform` is any MONAI transform.
    """

    def __init__(
        self,
        shards: str | Path | None = None,
        transform: Callable[[Item], Any] | None = None,
        *,
        model: str | Path | CaseGenerator | None = None,
        n: int | None = None,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        device: str = "auto",
        templates: str | None = None,
        reports: Sequence[str] = (),
        num_steps_mask: int | None = None,
        num_steps_ct: int | None = None,
        guidance: float | None = None,
    ) -> None:
        """ShardError unless exactly one source is given, either `shards`, or `model` together with `n`."""
        if (shards is None) == (model is None) or (model is None) != (n is None):
            raise ShardError("give either a shard folder, or model= and n= to generate cases on first use.")
        self.transform = transform
        self._cases: ShardReader | _GeneratedCases
        if model is None:
            assert shards is not None
            self._cases = ShardReader(shards)
            return
        assert n is not None
        source = _OnTheFly(model, device, seed, templates, tuple(reports), num_steps_mask, num_steps_ct, guidance)
        self._cases = _GeneratedCases(source, n, Path(cache_dir) if cache_dir else _default_cache())

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> Any:
        tar, key = self._cases.locate(index)
        item = monai_dict(tar.case(key), tar.folder.url)
        return item if self.transform is None else apply_transform(self.transform, item)


class GuideGenStream(IterableDataset[Any]):
    """Endless and fresh: case after case from (seed, i), none of them twice, kept nowhere.

    Under a DataLoader each worker makes its own cases, and a new epoch goes on where the last one stopped. `transform`
    is any MONAI transform; the items of one that returns a list are yielded one by one.
    """

    def __init__(
        self,
        model: str | Path | CaseGenerator = "torso",
        transform: Callable[[Item], Any] | None = None,
        *,
        seed: int = 0,
        device: str = "auto",
        templates: str | None = None,
        reports: Sequence[str] = (),
        num_steps_mask: int | None = None,
        num_steps_ct: int | None = None,
        guidance: float | None = None,
    ) -> None:
        """ModelError or ReportError when model or templates cannot be used."""
        self.transform = transform
        self._source = _OnTheFly(model, device, seed, templates, tuple(reports), num_steps_mask, num_steps_ct, guidance)
        # Shared with DataLoader workers, forked or spawned, because each epoch starts them from this object again.
        self._num_taken = torch.zeros(_MAX_WORKERS, dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        rank, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            block = int(self._num_taken[rank]) * num_workers + rank
            self._num_taken[rank] += 1
            for case in self._source.block(block):
                item = monai_dict(case, f"stream-{self._source.recipe.sha256[:16]}")
                made = item if self.transform is None else apply_transform(self.transform, item)
                yield from made if isinstance(made, list) else [made]


def monai_dict(case: Case, folder: str) -> Item:
    """The item of a case: image (1, X, Y, Z) float32 HU and label (1, X, Y, Z) uint8 on one RAS+ affine in mm.

    `meta` holds only values that a DataLoader can collate, `findings` therefore as JSON (see Findings.from_dict).
    `filename_or_obj` is unique within a folder, so that SaveImage names files by it.
    """
    meta = case.provenance
    affine = torch.from_numpy(np.asarray(case.affine, np.float64).copy())
    return {
        "image": _meta_tensor(case.ct_hu, np.float32, affine, f"{folder}/{case.key}.{CT}"),
        "label": _meta_tensor(case.label_map, np.uint8, affine, f"{folder}/{case.key}.{LABEL}"),
        "report": case.report,
        "meta": {
            "key": case.key,
            "anatomy": case.anatomy.name,
            "findings": to_json(case.findings.to_dict()),
            "prompt": case.findings.prompt(),
            "spacing_mm": list(case.spacing_mm),
            "volumes_ml": case.volumes_ml(),
            **{name: meta[name] for name in ("index", "seed", "case_seed", "model_sha256")},
            "passed": meta["quality"]["passed"],
        },
    }


class _OnTheFly:
    """A generator with its recipe, loaded once in each process that uses it: what was loaded from a name is not
    pickled."""

    def __init__(
        self,
        model: str | Path | CaseGenerator,
        device: str,
        seed: int,
        templates: str | None,
        reports: tuple[str, ...],
        num_steps_mask: int | None,
        num_steps_ct: int | None,
        guidance: float | None,
    ) -> None:
        self._model, self._device = model, device
        self._loaded: tuple[CaseGenerator, ReportSource] | None = None
        generator = self._load()
        self.recipe: Recipe = make_recipe(
            generator,
            device=device_kind(device),
            seed=seed,
            templates=templates,
            reports=reports,
            num_steps_mask=num_steps_mask,
            num_steps_ct=num_steps_ct,
            guidance=guidance,
        )
        self._loaded = generator, ReportSource(self.recipe, generator.anatomy)

    def block(self, block: int) -> list[Case]:
        """Every case of a block."""
        if self._loaded is None:
            generator = self._load()
            self._loaded = generator, ReportSource(self.recipe, generator.anatomy)
        return generate_block(self._loaded[0], self.recipe, self._loaded[1], block)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def _load(self) -> CaseGenerator:
        if isinstance(self._model, str | Path):
            return load_generator(self._model, self._device)
        return self._model


class _GeneratedCases:
    """Cases 0..n-1, generated by blocks when one of them is first asked for; each block is kept as a small tar."""

    def __init__(self, source: _OnTheFly, n: int, cache_dir: Path) -> None:
        if n < 1:
            raise ShardError(f"n must be 1 or more, got {n}.")
        self._source, self._n = source, n
        self._folder = cache_dir / source.recipe.sha256[:32]
        self._tars: dict[int, TarCases] = {}

    def __len__(self) -> int:
        return self._n

    def locate(self, index: int) -> tuple[TarCases, str]:
        """The tar and the key of a case, generated now if it is not there yet. IndexError beyond the end."""
        if not -self._n <= index < self._n:
            raise IndexError(f"case {index} of {self._n}")
        index %= self._n
        block = index // self._source.recipe.block_size
        if block not in self._tars:
            self._tars[block] = self._tar(block)
        return self._tars[block], key_of(index)

    def _tar(self, block: int) -> TarCases:
        name = f"block-{block:08d}.tar"
        path = self._folder / name
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            # Workers of one DataLoader ask for cases of one block at the same time: one makes it, the others wait.
            with _held(self._folder / f".{path.name}.lock"):
                if not path.exists():
                    write_tar(path, (encode_case(case).tar() for case in self._source.block(block)))
        return TarCases(self._folder, name)


def _meta_tensor(array: np.ndarray, dtype: type, affine: torch.Tensor, name: str) -> MetaTensor:
    tensor = torch.from_numpy(np.array(array[None], dtype=dtype, order="C"))
    meta = {"filename_or_obj": name, "original_affine": affine.clone(), "space": "RAS", "spatial_shape": array.shape}
    return MetaTensor(tensor, affine=affine.clone(), meta=meta)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guidegen-data"


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    lock.unlink(missing_ok=True)
