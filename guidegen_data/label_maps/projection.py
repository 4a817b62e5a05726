"""From our label table to another one: renaming, merging, dropping, sides of paired organs, tumours by their host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import LabelMapError
from guidegen_data.sites import right_of_midline_mm, without_lesions

#: Source name -> label id; None or 0 makes it background.
LabelMap = Mapping[str, int | None]
_LEFT, _RIGHT = 0, 1
_SIDES = {"left": (_LEFT,), "right": (_RIGHT,), "": (_LEFT, _RIGHT)}


@dataclass(frozen=True)
class Source:
    """What of ours can become a label: a class, one side of it, or the tumours that grew in it."""

    name: str
    class_name: str
    side: str = ""
    is_tumour: bool = False

    def overlaps(self, other: Source) -> bool:
        """Whether some voxel may be both."""
        if self.is_tumour != other.is_tumour:
            return False
        same = self.class_name == other.class_name or (self.is_tumour and not (self.class_name and other.class_name))
        return same and (self.side == other.side or not (self.side and other.side))


def vocabulary(anatomy: Anatomy) -> dict[str, Source]:
    """Every name that a label map may use, normalised, and what it means.

    Classes ('kidney'), their sides ('right kidney'), all tumours ('tumour'), and those of one host ('liver tumour').
    """
    lesion = anatomy.lesion_class
    sources = [Source(c.name, c.name) for c in anatomy.classes if c.name not in ("background", lesion)]
    sources += [Source(f"{o.side} {o.class_name}", o.class_name, o.side) for o in anatomy.organs if o.side]
    hosts = dict.fromkeys(o.class_name for o in anatomy.organs if o.sites)
    sources += [Source(lesion, "", is_tumour=True)]
    sources += [Source(f"{host} {lesion}", host, is_tumour=True) for host in hosts]
    names = {normalised(s.name): s for s in sources}
    # Public sets write the side last ('kidney_right'); a class with one source name answers to it as well.
    names |= {f"{s.class_name} {s.side}": s for s in sources if s.side}
    names |= {normalised(c.sources[0]): names[normalised(c.name)] for c in anatomy.classes if len(c.sources) == 1}
    return names


def normalised(name: str) -> str:
    """Names are equal when they differ in case, spaces, underscores and hyphens only."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


@dataclass(frozen=True, eq=False)
class Projection:
    """Our label maps onto another label set. Tumours that are not named count as the organ they grew in.

    `organ_table` and `tumour_table` (2, 256) hold the new id for each of ours, left and right; the second is looked up
    with the host of a tumour. `named` are the sources that the map names and their ids, 0 where they shall be
    background: it makes the same projection again. `dropped` are the classes that became background.
    """

    anatomy: Anatomy
    named: dict[str, int]
    dropped: tuple[str, ...]
    organ_table: np.ndarray
    tumour_table: np.ndarray

    @classmethod
    def from_map(cls, anatomy: Anatomy, label_map: LabelMap) -> Projection:
        """What is not named becomes background. LabelMapError for unknown names, collisions and impossible ids."""
        named = _resolve(anatomy, label_map)
        if not any(named.values()):
            raise LabelMapError(
                f"expected a label map that keeps at least one of {_quoted(anatomy)}, got none; add one."
            )
        organs = np.zeros((2, 256), np.uint8 if max(named.values()) < 256 else np.uint16)
        for source, label in named.items():
            if not source.is_tumour:
                for side in _SIDES[source.side]:
                    organs[side, anatomy.ids[source.class_name]] = label
        tumours = organs.copy()
        for source, label in named.items():
            if source.is_tumour and source.class_name:
                tumours[:, anatomy.ids[source.class_name]] = label
            elif source.is_tumour:
                tumours[:] = label
        kept = {source.class_name for source, label in named.items() if label and not source.is_tumour}
        dropped = [c.name for c in anatomy.classes if c.id and c.name not in kept and c.name != anatomy.lesion_class]
        dropped += [source.name for source, label in named.items() if source.is_tumour and not label]
        return cls(anatomy, {source.name: label for source, label in named.items()}, tuple(dropped), organs, tumours)

    @property
    def ids(self) -> dict[str, int]:
        """The sources that became a label, and its id."""
        return {name: label for name, label in self.named.items() if label}

    def __call__(self, label_map: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
        """The label map (X, Y, Z), RAS+, with the new ids: uint8, or uint16 where an id is above 255."""
        lesions = label_map == self.anatomy.lesion_id
        # A lesion without a host is background here, which the tumour table may still send to a label.
        hosts = without_lesions(label_map, self.anatomy) if lesions.any() else label_map
        out = self.organ_table[_LEFT][hosts]
        if lesions.any():
            out[lesions] = self.tumour_table[_LEFT][hosts[lesions]]
        if (self.organ_table[_LEFT] != self.organ_table[_RIGHT]).any():
            right = np.broadcast_to(right_of_midline_mm(hosts, spacing_mm, self.anatomy) >= 0, hosts.shape)
            out[right] = self.organ_table[_RIGHT][hosts[right]]
            out[right & lesions] = self.tumour_table[_RIGHT][hosts[right & lesions]]
        return out

    def __eq__(self, other: object) -> bool:
        # By the tables too: a source that was sent to background has no id, and may be all that tells two maps apart.
        return (
            isinstance(other, Projection)
            and (self.anatomy.name, self.ids) == (other.anatomy.name, other.ids)
            and np.array_equal(self.organ_table, other.organ_table)
            and np.array_equal(self.tumour_table, other.tumour_table)
        )


def _resolve(anatomy: Anatomy, label_map: LabelMap) -> dict[Source, int]:
    known = vocabulary(anatomy)
    if unknown := [n for n in label_map if normalised(n) not in known and normalised(n) != "background"]:
        raise LabelMapError(
            f"the label map names unknown classes {unknown}; it may name {_quoted(anatomy)}, a side ('right kidney') "
            f"or the tumours of an organ ('liver {anatomy.lesion_class}')."
        )
    for name, label in label_map.items():
        if isinstance(label, bool) or not isinstance(label, int | None) or not 0 <= (label or 0) < 2**16:
            raise LabelMapError(
                f"expected a label id from 0 to 65535 for {name!r}, got {label!r}; give a whole number."
            )
        if normalised(name) == "background" and label:
            raise LabelMapError(f"the background must stay 0, the label map sends it to {label}; leave it out.")
    named: dict[Source, int] = {}
    for name, label in label_map.items():
        if normalised(name) == "background":
            continue
        source = known[normalised(name)]
        if clash := next((s for s in named if s.overlaps(source)), None):
            raise LabelMapError(
                f"the label map names {source.name!r} twice (also as {clash.name!r}), so a voxel would get two labels; "
                f"keep one of them."
            )
        named[source] = label or 0
    return named


def _quoted(anatomy: Anatomy) -> str:
    return ", ".join(repr(c.name) for c in anatomy.classes if c.id)
