"""Imports run downwards only, and what must stay light does."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "guidegen_data"
# From the bottom up. A part may import the parts of lower rows, and of its own row where that makes no circle.
ROWS = [
    {"errors"},
    {"anatomy", "anatomy_files"},
    {"diffusion", "reports", "case", "habitus"},
    {"models", "sites", "sites_frame", "lesions", "lesion_contrast", "grounding", "cleanup", "organ_sizes", "quality"}
    | {"preview", "tissue_rule", "scanned"},
    {"pipeline", "pipeline_stages", "sources", "label_maps"},
    {"dataset", "shards", "training", "metrics"},
    {"cli"},
]
ROW = {part: number for number, row in enumerate(ROWS) for part in row}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Dotted names a file imports, also within functions; what only types need is left out."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path) if name.startswith("guidegen_data."))
    return {name[1] for name in names if name[1] in ROW}


def test_every_part_has_a_row() -> None:
    parts = {part_of(path) for path in files()} - {"__init__", "weights"}
    assert parts == set(ROW)


def test_imports_run_downwards() -> None:
    paths = [path for path in files() if part_of(path) in ROW]
    assert len(paths) > 40
    upwards = [
        f"{path.relative_to(PACKAGE)} imports {part}"
        for path in paths
        for part in parts_imported(path)
        if ROW[part] > ROW[part_of(path)]
    ]
    assert upwards == []


def test_parts_of_one_row_make_no_circle() -> None:
    edges = {part: set() for part in ROW}
    for path in files():
        if part_of(path) in ROW:
            edges[part_of(path)] |= parts_imported(path) - {part_of(path)}
    while free := [part for part, needed in edges.items() if not needed]:
        for part in free:
            del edges[part]
        for needed in edges.values():
            needed.difference_update(free)
    assert edges == {}


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("diffusion", "guidegen_data.anatomy"),
        ("diffusion", "guidegen_data.case"),
        ("reports", "torch"),
        ("sources", "guidegen_data.models"),
        ("sources", "guidegen_data.pipeline"),
        ("shards", "guidegen_data.cli"),
    ],
)
def test_a_part_does_not_know_what_is_none_of_its_business(folder: str, forbidden: str) -> None:
    paths = [path for path in files() if part_of(path) == folder]
    assert len(paths) > 1
    names = {name for path in paths for name in imports(path)}
    assert not {name for name in names if name == forbidden or name.startswith(forbidden + ".")}


def test_plugins_and_benchmarks_use_public_names() -> None:
    outside = [p for folder in ("plugins", "benchmarks") for p in (PACKAGE.parent / folder).rglob("*.py")]
    assert len(outside) > 2
    private = {
        f"{path.name}: {name}"
        for path in outside
        for name in imports(path)
        if name.startswith("guidegen_data") and any(piece.startswith("_") for piece in name.split(".")[1:])
    }
    assert {name for name in private if not name.endswith("__version__")} == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import guidegen_data",
        "from guidegen_data import Anatomy, Findings, Case",
        "import guidegen_data.cli.main",
        "from guidegen_data.cli.main import main; main(['preview', '--help'])",
    ],
)
def test_what_must_stay_light_imports_no_torch(statement: str) -> None:
    program = (
        f"import sys\ntry:\n    {statement}\nexcept SystemExit: pass\n"
        "sys.exit(', '.join({'torch', 'monai', 'diffusers', 'transformers'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
