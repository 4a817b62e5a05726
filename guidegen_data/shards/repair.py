"""Mending a shard folder: what `verify` found wrong is removed and made anew, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guidegen_data.errors import ShardError
from guidegen_data.shards import manifest
from guidegen_data.shards.folder import is_shard, salvage
from guidegen_data.shards.generators import Load
from guidegen_data.shards.manifest import WORK, RunConfig, key_of, shard_name
from guidegen_data.shards.storage import Folder
from guidegen_data.shards.verify import Problem
from guidegen_data.shards.workers import Progress, fill_folder
from guidegen_data.shards.workers import compute_blocks as compute


def repair(folder: Folder, found: Sequence[Problem], load: Load, model_card: str = "") -> Iterator[Progress]:
    """Complete the folder again, yielding at the start and after every block that had to be computed.

    Blocks of a damaged shard whose cases are all well are kept. ShardError, before anything is removed, when the model
    or the program is not the one that made the folder.
    """
    config = manifest.read_config(folder)
    if (installed := manifest.installed_version("guidegen-data")) != config.recipe.package_version:
        raise ShardError(
            f"{folder.url} was made by guidegen-data {config.recipe.package_version}, this is {installed}; install "
            f"that version to repair it, or make a new folder."
        )
    generator = load()
    if generator.fingerprint != config.recipe.model_sha256:
        raise ShardError(
            f"{folder.url} was made by a model with sha256 {config.recipe.model_sha256[:12]}, this one has "
            f"{generator.fingerprint[:12]}; give the folder of that model by --model."
        )
    if lock := folder.hold(f"{WORK}/lock"):
        lock.close()  # no other run is writing; the folder is held again as it is filled
    _remove(folder, config, found)
    yield from fill_folder(
        folder, config, lambda blocks: compute(config.recipe, [lambda: generator], blocks, config.n), False, model_card
    )


def _remove(folder: Folder, config: RunConfig, found: Sequence[Problem]) -> None:
    planned = {shard_name(shard): shard for shard in range(config.num_shards)}
    bad: dict[str, set[str]] = {}
    for problem in found:
        bad.setdefault(problem.file, set()).add(problem.key)
    for name, keys in bad.items():
        if name in planned:
            cases = config.cases_of_shard(planned[name])
            salvage(folder, name, [key_of(i) for i in cases], keys, config.recipe.block_size)
        elif is_shard(name) or name in manifest.FILES:
            folder.remove(name)
