"""Mending a shard folder: what `verify` found wrong is removed and made anew, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from guidegen_data.errors import ShardError
from guidegen_data.shards import manifest
from guidegen_data.shards.folder import is_shard, salvage
from guidegen_data.shards.generators import Load
from guidegen_data.shards.manifest import LOCK, RunConfig, ShardEntry, key_of, shard_name
from guidegen_data.shards.plan import ReportSource
from guidegen_data.shards.storage import Folder
from guidegen_data.shards.table import check_table
from guidegen_data.shards.verify import Problem, shard_problems
from guidegen_data.shards.workers import Finished, Progress, fill_folder
from guidegen_data.shards.workers import compute_blocks as compute


def repair(folder: Folder, found: Sequence[Problem], load: Load, model_card: str = "") -> Iterator[Progress]:
    """Complete the folder again, yielding at the start and after every block that had to be computed.

    Blocks of a damaged shard whose cases are all well are kept. ShardError or ReportError, before anything is removed,
    when the model, its label table, the program or the templates are not those that made the folder, or another run
    writes to it.
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
    if not any(problem.file == manifest.ANATOMY for problem in found):  # else it is written anew
        check_table(folder, generator.anatomy.name)
    ReportSource(config.recipe, generator.anatomy)  # raises where what the cases were worded by is not there

    def make(blocks: Sequence[int]) -> Iterator[Finished]:
        return compute(config.recipe, [lambda: generator], blocks, config.n)

    lock = folder.hold(LOCK)
    try:
        _remove(folder, config, found)
        yield from fill_folder(folder, config, make, model_card=model_card, lock=lock)
    finally:
        if lock:
            lock.close()


def _remove(folder: Folder, config: RunConfig, found: Sequence[Problem]) -> None:
    planned = {shard_name(shard): shard for shard in range(config.num_shards)}
    listed: dict[str, ShardEntry] = {}
    with suppress(ShardError):
        listed = {entry.name: entry for entry in manifest.read_index(folder)}
    for name in dict.fromkeys(problem.file for problem in found):
        if name in planned:
            # Looked at again, now that nobody else writes: what another run has mended meanwhile stays, and so does a
            # shard whose one fault is that the index does not list it.
            bad = {problem.key for problem in shard_problems(folder, config, name, listed.get(name))}
            keys = [key_of(i) for i in config.cases_of_shard(planned[name])]
            if bad:
                is_whole = name in listed and "" not in bad
                salvage(folder, name, keys, bad, config.recipe.block_size, is_whole)
        elif is_shard(name) or name in manifest.FILES:
            folder.remove(name)
