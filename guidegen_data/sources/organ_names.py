"""Which organs the names of a label table are of."""

from __future__ import annotations

from collections.abc import Collection

from guidegen_data.anatomy import Anatomy, FindingOrgan


def organs_of_names(classes: Collection[str], anatomy: Anatomy) -> set[str]:
    """Report names of the organs that these label names are of.

    A name with a side is of the organ on that side alone: where kidney_left is all there is, nothing is known of the
    right one.
    """
    ids = {name: int(anatomy.lookup({1: name})[0][1]) for name in classes}
    return {
        organ.name
        for organ in anatomy.organs
        for name, value in ids.items()
        if value == anatomy.id_of(organ.class_name) and not _is_other_side(name, organ)
    }


def _is_other_side(name: str, organ: FindingOrgan) -> bool:
    other = {"right": "left", "left": "right"}.get(organ.side)
    return other is not None and other in name.lower()
