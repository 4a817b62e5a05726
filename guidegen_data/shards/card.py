"""What a finished shard folder says of itself to people: the data-set card, histograms, the model's own card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from guidegen_data.anatomy import anatomy_named
from guidegen_data.shards import manifest
from guidegen_data.shards.croissant import croissant
from guidegen_data.shards.histograms import histograms_png
from guidegen_data.shards.manifest import RunConfig, ShardEntry
from guidegen_data.shards.statistics import SIZE_BANDS_MM, Statistics, band_name, statistics
from guidegen_data.shards.storage import Folder, file_sha256, write_bytes, write_text

_READING = """\
```bash
tar tf {first}            # every case: KEY.ct.nii.gz, KEY.label.nii.gz, KEY.report.txt, KEY.meta.json
guidegen verify .         # checksums, members, grids, label ids, reports against label maps
guidegen preview .        # a PNG sheet of slices
```

```python
from guidegen_data import GuideGenDataset

dataset = GuideGenDataset(".")   # MONAI dicts: image (HU), label, report, meta
```
"""


def write_card(folder: Folder, config: RunConfig, entries: Sequence[ShardEntry], model_card: str) -> None:
    """Write card, histograms, Croissant description and model card of a folder whose manifest is whole.

    What is there already with the same content is not touched.
    """
    cases, rejects = (manifest.read_lines(folder, name) for name in (manifest.MANIFEST, manifest.REJECTS))
    found = statistics(anatomy_named(config.recipe.anatomy), cases, rejects)
    described = croissant(config, entries, file_sha256(folder, manifest.MANIFEST))
    if model_card:
        write_text(folder, manifest.MODEL_CARD, model_card)
    write_text(folder, manifest.CROISSANT, manifest.to_json(described) + "\n")
    write_bytes(folder, manifest.HISTOGRAMS, histograms_png(found))
    write_text(folder, manifest.CARD, card_text(config, entries, found, model_card))


def card_text(config: RunConfig, entries: Sequence[ShardEntry], found: Statistics, model_card: str = "") -> str:
    """Markdown of the card. A function of its arguments."""
    sections = [
        f"# {found.num_cases} synthetic CT volumes with label maps and reports",
        "Paired CT and label map made by guidegen-data from report text. No voxel was measured on a person: use for "
        "training and testing software, never for diagnosis.",
        _origin(config, entries, found),
        "## Reading it\n\n" + _READING.format(first=entries[0].name),
        f"## Coverage\n\n{_findings(found)}\n\n{_lesions(found)}\n\n{_pairs(found)}",
        f"## Classes\n\n{_classes(found)}\n\n![Volumes and lesion sizes]({manifest.HISTOGRAMS})",
        "## Quality\n\n" + _quality(config, found),
        "## Licence\n\n" + _licence(config, model_card),
    ]
    return "\n\n".join(sections) + "\n"


def _origin(config: RunConfig, entries: Sequence[ShardEntry], found: Statistics) -> str:
    recipe = config.recipe
    size = " x ".join(str(v) for v in found.shape)
    spacing = " x ".join(f"{v:g}" for v in found.spacing_mm)
    text = f"{len(recipe.reports)} given in turns" if recipe.reports else f"template library `{recipe.templates}`"
    sampled = "" if recipe.reports else f", findings sampled by {recipe.sampling}"
    if recipe.abstractor:
        sampled = f", read by the chat model `{recipe.abstractor}`"
    rows = [
        ("cases", f"{found.num_cases} in {len(entries)} shards, {sum(e.bytes for e in entries) / 1e6:.1f} MB"),
        ("grid", f"{size} voxels at {spacing} mm, RAS+"),
        ("model", f"`{config.model}`, sha256 `{recipe.model_sha256}`"),
        ("seed", str(recipe.seed)),
        ("reports", text + sampled),
        ("looks of each label map", f"{recipe.styles}, in consecutive cases of one `generation.label_map_of`")
        if recipe.styles > 1
        else ("looks of each label map", "1"),
        ("program", f"guidegen-data {recipe.package_version}; the whole configuration is in {manifest.RUN}"),
        ("description for machines", f"{manifest.CROISSANT} (ML Croissant 1.0), {manifest.INDEX}, {manifest.MANIFEST}"),
    ]
    return _table(("", ""), rows)


def _findings(found: Statistics) -> str:
    rows = [
        (what, ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none")
        for what, counts in found.findings.items()
    ]
    return _table(("what", "cases"), rows)


def _lesions(found: Statistics) -> str:
    """Lesions that were asked for, by site and size; empty cells show what the folder does not cover."""
    places = [(organ.name, site) for organ in found.anatomy.organs for site in organ.sites]
    if not places:
        return "This anatomy has no lesions."
    bands = range(len(SIZE_BANDS_MM))
    rows, num_covered = [], 0
    for organ, site in places:
        counts = [found.lesions[organ, site, band] for band in bands]
        num_covered += sum(count > 0 for count in counts)
        rows.append((organ, site or "-", *(str(count or "-") for count in counts)))
    told = f"Lesions asked for: {found.lesions.total()}, in {num_covered} of {len(places) * len(bands)} cells."
    return f"{told}\n\n{_table(('lesion in', 'site', *(band_name(b) for b in bands)), rows)}"


def _pairs(found: Statistics) -> str:
    """How many values of every attribute, and of every pair of two, the cases hold of those that a case can hold."""
    rows = [
        (row.attributes, str(row.num_possible), str(row.num_met), str(row.rarest), "; ".join(row.missing) or "-")
        for row in found.coverage.rows()
    ]
    told = "Values that the cases hold, of every attribute and of every pair of two (a lesion: organ, site and size)."
    return f"{told}\n\n{_table(('attributes', 'possible', 'met', 'rarest, cases', 'missing, for example'), rows)}"


def _classes(found: Statistics) -> str:
    rows = []
    for organ in found.anatomy.classes[1:]:
        present = found.present_ml(organ.name)
        spread = " / ".join(f"{v:.1f}" for v in np.percentile(present, (5, 50, 95))) if present.size else "-"
        rows.append((str(organ.id), organ.name, str(present.size), spread))
    return _table(("id", "class", "cases", "ml, 5 / 50 / 95 % where present"), rows)


def _quality(config: RunConfig, found: Statistics) -> str:
    mode = "rejected cases were made anew" if config.recipe.quality_control else "cases that failed were kept (--no-qc)"
    told = (
        f"{found.num_passed} of {found.num_cases} cases pass every check; {mode}. {found.num_rejects} drafts "
        f"({found.reject_share:.1%}) were rejected."
    )
    if not found.reasons:
        return told
    return told + "\n\n" + _table(("reason", "rejects"), [(name, str(n)) for name, n in sorted(found.reasons.items())])


def _licence(config: RunConfig, model_card: str) -> str:
    chain = [
        "Each link binds what follows it: training data, weights, these cases.",
        f"1. **Training data** of the model `{config.model}` (sha256 `{config.recipe.model_sha256}`): "
        + (f"as its card says below; the whole card is {manifest.MODEL_CARD}." if model_card else "unknown, the model "
           "came without a card. Ask whoever trained it before you pass these cases on."),
        "2. **Weights**: the terms that card gives.",
        "3. **These cases**: made by the program guidegen-data (Apache-2.0), which claims nothing on what it makes; "
        "they inherit the terms of the weights.",
    ]  # fmt: skip
    return "\n".join([chain[0], "", *chain[1:]]) + _data_section(model_card)


def _data_section(model_card: str) -> str:
    """The part of a model card on its data and licences, as a section of ours; '' when it has none."""
    found = re.search(r"^## ([^\n]*licen[cs]e[^\n]*)\n(.*?)(?=^## |\Z)", model_card, re.M | re.S | re.I)
    return f"\n\n### From the model card: {found[1]}\n\n{found[2].strip()}" if found else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
