"""What a shard folder says about itself: names and keys, the recipe of a case, index, manifest and reject lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from guidegen_data.errors import ShardError
from guidegen_data.shards.storage import Folder

FORMAT = 1
RUN, INDEX, MANIFEST, REJECTS, CARD = "run.json", "index.json", "manifest.jsonl", "rejects.jsonl", "README.md"
HISTOGRAMS, CROISSANT, MODEL_CARD = "histograms.png", "croissant.json", "model-card.md"
#: The label table of the cases with its measured ranges: the model's own, which a new process does not know.
ANATOMY = "anatomy.yaml"
FILES = (RUN, ANATOMY, INDEX, MANIFEST, REJECTS, CARD, HISTOGRAMS, CROISSANT, MODEL_CARD)
WORK = ".partial"
LOCK = f"{WORK}/lock"
CT, LABEL, REPORT, META = "ct.nii.gz", "label.nii.gz", "report.txt", "meta.json"
MEMBERS = (CT, LABEL, REPORT, META)
# All else can be made anew from the shards, but what made those this file alone tells.
_RUN_REMEDY = "put it back from a backup, or make the folder anew with guidegen-shard and --overwrite"
_DESCRIBED = ("torch", "diffusers", "transformers", "numpy", "scipy", "nibabel", "isal")


def key_of(index: int) -> str:
    """The key of case `index`: 's' and nine digits, so that names sort as numbers do."""
    return f"s{index:09d}"


def shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.tar"


def to_json(data: Any) -> str:
    """JSON of one line whose bytes depend on the data alone: sorted keys, no NaN."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of case i besides i itself.

    `device` is the kind ('cpu', 'cuda'), not which one. `reports` are the user's own texts (case i takes the i-th, in
    turns); without them findings are drawn by `sampling` and worded by `templates`. `readings` are what a chat model,
    `abstractor`, read in the reports, as JSON: it reads where the run starts, so that no worker needs it. Without an
    abstractor the rules read. Of `styles` consecutive cases all show one label map. `block_size` consecutive cases are
    always generated as one batch, because arithmetic in a batch of another size may round differently; so may that of
    networks that were `compiled`.
    """

    model_sha256: str
    anatomy: str
    device: str
    templates: str
    templates_sha256: str
    seed: int = 0
    reports: tuple[str, ...] = ()
    num_steps_mask: int | None = None
    num_steps_ct: int | None = None
    guidance: float | None = None
    quality_control: bool = True
    sampling: str = "prevalence"
    block_size: int = 4
    package_version: str = ""
    abstractor: str = ""
    readings: tuple[str, ...] = ()
    styles: int = 1
    compiled: bool = False

    def __post_init__(self) -> None:
        if not self.package_version:
            object.__setattr__(self, "package_version", installed_version("guidegen-data"))
        if len(self.readings) != (len(self.reports) if self.abstractor else 0):
            raise ShardError(
                f"expected one reading by the abstractor a report, got {len(self.readings)} for {len(self.reports)}."
            )
        if self.seed < 0:
            raise ShardError(f"the seed must be 0 or more, got {self.seed}.")
        for name in ("num_steps_mask", "num_steps_ct", "styles"):
            if (steps := getattr(self, name)) is not None and steps < 1:
                raise ShardError(f"{name} must be 1 or more, got {steps}.")

    @property
    def sha256(self) -> str:
        """Hex digest that two recipes share only if they make the same cases.

        A user's own template file counts by its content, not by where it lies.
        """
        return self._digest("" if self.templates_sha256 else self.templates)

    def made(self, recipe_sha256: object) -> bool:
        """Whether a case or a shard that says so is of this recipe; the path of a template file once counted, too."""
        return recipe_sha256 in (self.sha256, self._digest(self.templates))

    def _digest(self, templates: str) -> str:
        return hashlib.sha256(to_json(asdict(self) | {"templates": templates}).encode()).hexdigest()


@dataclass(frozen=True)
class RunConfig:
    """One shard folder: a recipe, the number of cases and how many to a shard. `model` is the name as it was given."""

    recipe: Recipe
    n: int
    model: str
    shard_size: int = 64

    def __post_init__(self) -> None:
        if self.n < 1 or self.shard_size < 1:
            raise ShardError(f"n and the shard size must be 1 or more, got {self.n} and {self.shard_size}.")

    @property
    def num_shards(self) -> int:
        return -(-self.n // self.shard_size)

    @property
    def num_blocks(self) -> int:
        return -(-self.n // self.recipe.block_size)

    def cases_of_shard(self, shard: int) -> range:
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.n))

    def blocks_of_shard(self, shard: int) -> range:
        """The blocks that hold the shard's cases; the first and the last may be shared with its neighbours."""
        cases, size = self.cases_of_shard(shard), self.recipe.block_size
        return range(cases.start // size, (cases.stop - 1) // size + 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping; `from_dict` undoes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunConfig:
        """Configuration from `to_dict`'s mapping; ShardError when it was written by a version with other fields."""
        try:
            recipe = dict(data["recipe"])
            recipe |= {name: tuple(recipe[name]) for name in ("reports", "readings")}
            return cls(**{**data, "recipe": Recipe(**recipe)})
        except ShardError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(
                f"{RUN} is damaged or was written by another version of guidegen-data ({error}); use that "
                f"version, {_RUN_REMEDY}."
            ) from error

    def differences(self, other: RunConfig) -> list[str]:
        """What makes other cases or other shards of `other`, as 'seed 0, not 1'.

        The model's name alone does not, nor does the path of a template file.
        """
        own = self.recipe.templates_sha256 and other.recipe.templates_sha256
        names = [f.name for f in fields(Recipe) if f.name != "templates" or not own]
        pairs = [(name, getattr(self.recipe, name), getattr(other.recipe, name)) for name in names]
        pairs += [("n", self.n, other.n), ("shard_size", self.shard_size, other.shard_size)]
        return [
            f"other {name}" if name in ("reports", "readings") else f"{name} {_brief(a)}, not {_brief(b)}"
            for name, a, b in pairs
            if a != b
        ]


@dataclass(frozen=True)
class ShardEntry:
    """One shard in index.json."""

    name: str
    sha256: str
    bytes: int
    num_cases: int
    first_key: str
    last_key: str
    num_rejects: int


@dataclass(frozen=True)
class Index:
    """index.json as it is read. Other writers may leave out the recipe ("") and the number of cases planned (0)."""

    shards: tuple[ShardEntry, ...]
    recipe_sha256: str = ""
    num_planned: int = 0


def meta_sha256(meta: Mapping[str, Any]) -> str:
    """Digest of a case's metadata, which holds it among the digests of its other members."""
    digests = {suffix: digest for suffix, digest in meta["sha256"].items() if suffix != META}
    return hashlib.sha256(to_json({**meta, "sha256": digests}).encode()).hexdigest()


def manifest_line(meta: Mapping[str, Any], shard: str) -> dict[str, Any]:
    """One line of manifest.jsonl: what one filters a data set by."""
    kept = ("key", "index", "case_seed", "attempt", "anatomy", "findings", "spacing_mm", "shape", "volumes_ml")
    return {name: meta[name] for name in kept} | {"shard": shard, "passed": meta["quality"]["passed"]}


def index_of(config: RunConfig, entries: Sequence[ShardEntry]) -> dict[str, Any]:
    """index.json: the shards published so far, in order."""
    num_cases = sum(e.num_cases for e in entries)
    num_rejects = sum(e.num_rejects for e in entries)
    return {
        "format": FORMAT,
        "num_cases": num_cases,
        "num_planned": config.n,
        "num_rejects": num_rejects,
        "reject_share": round(num_rejects / max(1, num_cases + num_rejects), 6),
        "recipe_sha256": config.recipe.sha256,
        "model_sha256": config.recipe.model_sha256,
        "shards": [asdict(e) for e in entries],
    }


def run_record(config: RunConfig) -> dict[str, Any]:
    """run.json: the whole configuration and the versions it first ran with."""
    versions = {name: installed_version(name) for name in ("guidegen-data", *_DESCRIBED)}
    return {"format": FORMAT, "config": config.to_dict(), "versions": versions | {"python": python_version()}}


def read_json(folder: Folder, name: str) -> Any:
    """The JSON in a file of a shard folder; ShardError when it is missing or damaged."""
    try:
        with folder.open(name) as file:
            return json.loads(file.read())
    except FileNotFoundError as error:
        raise ShardError(f"{folder.url} has no {name}, so it is no shard folder; check the path.") from error
    except NotADirectoryError as error:
        raise ShardError(f"{folder.url} is a file; give the folder that holds it.") from error
    except (ValueError, OSError) as error:
        raise damaged(folder, name, error) from error


def read_config(folder: Folder) -> RunConfig:
    """The configuration a shard folder was made with; ShardError when there is none."""
    record = read_json(folder, RUN)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ShardError(f"{folder.url}/{RUN} is not of shard format {FORMAT}; it belongs to something else.")
    return RunConfig.from_dict(record.get("config", {}))


def read_index(folder: Folder) -> list[ShardEntry]:
    """The published shards by index.json; ShardError when it is missing, damaged or of another format."""
    return list(read_whole_index(folder).shards)


def read_whole_index(folder: Folder) -> Index:
    """index.json with what it says of the whole folder; ShardError as `read_index` raises it."""
    record = read_json(folder, INDEX)
    try:
        shards = tuple(ShardEntry(**entry) for entry in record["shards"])
        return Index(shards, str(record.get("recipe_sha256") or ""), int(record.get("num_planned") or 0))
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{folder.url}/{INDEX} is not of shard format {FORMAT} ({error}).") from error


def read_lines(folder: Folder, name: str) -> Iterator[dict[str, Any]]:
    """The lines of a .jsonl file, one after the other; none when there is no such file.

    ShardError when a line is damaged.
    """
    try:
        with folder.open(name) as file:
            for line in file:
                yield json.loads(line)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise damaged(folder, name, error) from error


def installed_version(name: str) -> str:
    """Version of an installed distribution, 'absent' when it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def damaged(folder: Folder, name: str, error: Exception) -> ShardError:
    """What to raise for a file of a shard folder that cannot be read."""
    remedy = _RUN_REMEDY if name == RUN else "run `guidegen verify --repair` on the folder"
    return ShardError(f"{folder.url}/{name} is damaged ({error}); {remedy}.")


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "..."
