"""README.md of a shard folder: the data-set card, written from the index, the manifest and the rejects."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from guidegen_data.anatomy import anatomy_named
from guidegen_data.shards.manifest import RunConfig, ShardEntry

_READING = """\
```bash
tar tf {first}            # every case: KEY.ct.nii.gz, KEY.label.nii.gz, KEY.report.txt, KEY.meta.json
guidegen verify .         # checksums, members, grids, label ids
guidegen preview .        # a PNG sheet of slices
```

```python
from guidegen_data import GuideGenDataset

dataset = GuideGenDataset(".")   # MONAI dicts: image (HU), label, report, meta
```
"""


def card_text(config: RunConfig, entries: Sequence[ShardEntry], manifest: Sequence[str], rejects: Sequence[str]) -> str:
    """Markdown of the card. A function of its arguments; `manifest` and `rejects` are lines of JSON."""
    cases = [json.loads(line) for line in manifest]
    refused = [json.loads(line) for line in rejects]
    sections = [
        f"# {len(cases)} synthetic CT volumes with label maps and reports",
        "Paired CT and label map made by guidegen-data from report text. No voxel was measured on a person: use for "
        "training and testing software, never for diagnosis.",
        _origin(config, cases, entries),
        "## Reading it\n\n" + _READING.format(first=entries[0].name),
        "## Coverage\n\n" + _coverage(cases),
        "## Classes\n\n" + _classes(config, cases),
        "## Quality\n\n" + _quality(config, cases, refused),
        "## Licence\n\nCases inherit the terms of the weights that made them: see the model card (README.md) in the "
        f"folder of the model `{config.model}` (sha256 `{config.recipe.model_sha256}`), which names its training data "
        "and their licences. The program itself is under Apache-2.0.",
    ]
    return "\n\n".join(sections) + "\n"


def _origin(config: RunConfig, cases: Sequence[dict[str, Any]], entries: Sequence[ShardEntry]) -> str:
    recipe, first = config.recipe, cases[0]
    size = " x ".join(str(v) for v in first["shape"])
    spacing = " x ".join(f"{v:g}" for v in first["spacing_mm"])
    text = f"{len(recipe.reports)} given in turns" if recipe.reports else f"template library `{recipe.templates}`"
    rows = [
        ("cases", f"{len(cases)} in {len(entries)} shards, {sum(e.bytes for e in entries) / 1e6:.1f} MB"),
        ("grid", f"{size} voxels at {spacing} mm, RAS+"),
        ("model", f"`{config.model}`, sha256 `{recipe.model_sha256}`"),
        ("seed", str(recipe.seed)),
        ("reports", text),
        ("program", f"guidegen-data {recipe.package_version}; the whole configuration is in run.json"),
    ]
    return _table(("", ""), rows)


def _coverage(cases: Sequence[dict[str, Any]]) -> str:
    findings = [case["findings"] for case in cases]
    counts: list[tuple[str, Counter[str]]] = [
        ("region", Counter(f["region"] for f in findings)),
        ("contrast phase", Counter(f["phase"] or "not stated" for f in findings)),
        ("sex", Counter(f["sex"] or "not stated" for f in findings)),
        ("age", Counter("not stated" if f["age_decade"] is None else f"{f['age_decade']}s" for f in findings)),
        ("lesions in a case", Counter(str(len(f["lesions"])) for f in findings)),
        ("lesion in", Counter(lesion["organ"] for f in findings for lesion in f["lesions"])),
        (
            "organ not normal",
            Counter(f"{o} {status}" for f in findings for o, status in f["organs"].items() if status != "normal"),
        ),
    ]
    rows = [(what, ", ".join(f"{name} {number}" for name, number in sorted(c.items())) or "none") for what, c in counts]
    return _table(("what", "cases"), rows)


def _classes(config: RunConfig, cases: Sequence[dict[str, Any]]) -> str:
    rows = []
    for organ in anatomy_named(config.recipe.anatomy).classes[1:]:
        volumes = np.array([case["volumes_ml"][organ.name] for case in cases])
        present = volumes[volumes > 0]
        spread = " / ".join(f"{v:.1f}" for v in np.percentile(present, (5, 50, 95))) if present.size else "-"
        rows.append((str(organ.id), organ.name, str(present.size), spread))
    return _table(("id", "class", "cases", "ml, 5 / 50 / 95 % where present"), rows)


def _quality(config: RunConfig, cases: Sequence[dict[str, Any]], refused: Sequence[dict[str, Any]]) -> str:
    passed = sum(case["passed"] for case in cases)
    share = len(refused) / max(1, len(cases) + len(refused))
    mode = "rejected cases were made anew" if config.recipe.quality_control else "cases that failed were kept (--no-qc)"
    lines = (
        f"{passed} of {len(cases)} cases pass every check; {mode}. {len(refused)} drafts ({share:.1%}) were rejected."
    )
    reasons = Counter(check["name"] for reject in refused for check in reject["failed"])
    if not reasons:
        return lines
    return lines + "\n\n" + _table(("reason", "rejects"), [(name, str(n)) for name, n in sorted(reasons.items())])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
