"""The label tables: id, name, source classes, plausible HU and volume, colour, and what a report may say of each.

One owner for every stage: masks, images, reports, metrics and converters take ids and names from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from guidegen_data.errors import AnatomyError

STATUSES = ("normal", "enlarged", "small", "absent")
PHASES = ("non-contrast", "arterial", "portal venous")
#: What a body is made of where a table names no class. Of no table: where they are drawn their ids follow those of it.
TISSUES = ("fat", "soft tissue", "bone")
ATTENUATIONS = ("hypodense", "isodense", "hyperdense")
HABITUS = ("slim", "average", "large")


@dataclass(frozen=True)
class OrganClass:
    """One row of a label table.

    `volume_ml` is the plausible range of the whole organ in an adult, `hu` the plausible range of its mean over all
    contrast phases; `sources` are the TotalSegmentator v2 names merged into it.
    """

    id: int
    name: str
    sources: tuple[str, ...]
    hu: tuple[float, float]
    volume_ml: tuple[float, float]
    colour: tuple[int, int, int]
    tissue_hu: tuple[float, float] | None = None


@dataclass(frozen=True)
class FindingOrgan:
    """An organ as a report names it: its class, the side if the class holds both, and what may be said of it.

    `sites` are the places where a lesion may be put (empty: a lesion may not be asked for here; one empty string: the
    organ has no named parts). The left-right axis is the patient's own.
    """

    name: str
    class_name: str
    side: str = ""
    statuses: tuple[str, ...] = ("normal",)
    sites: tuple[str, ...] = ()


@dataclass(frozen=True)
class LesionFrame:
    """Sites of lesions that grow in no labelled organ, in mm from the middle of the field; see `sites_frame.py`.

    Within `central_mm` of the midline a lesion is central. `levels_mm` are the bounds between the sites, from the top
    down; `extent_mm` the range along x, y, z that lesions lie in; `host` the class they take their voxels from.
    """

    central_mm: float
    levels_mm: tuple[float, ...]
    extent_mm: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    host: str = "background"


@dataclass(frozen=True)
class Anatomy:
    """A label table with ids 0..K-1 and the vocabulary of findings over it.

    The last four entries are measured on a population, by `guidegen prepare` for a table of your own: the usual centre
    of each class from the middle of the field, the volumes in ml below which an organ is small and above which it is
    enlarged, the body width in mm from which on a region is shown (the largest that fits counts), and the body area in
    cm2 of an axial slice, measured in the middle fifth of the field, below which a patient is slim, above which large.
    """

    name: str
    classes: tuple[OrganClass, ...]
    organs: tuple[FindingOrgan, ...]
    regions: tuple[str, ...]
    lesion_class: str = "tumour"
    shape: tuple[int, int, int] = (128, 128, 128)
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0)
    hu_range: tuple[int, int] = (-1024, 1976)
    region_organs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Below the first trunk width in mm a patient is slim, above the second large; see `habitus.py`.
    habitus_mm: tuple[float, float] = (275.0, 318.0)
    frame: LesionFrame | None = None
    layout_mm: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    size_ml: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    region_width_mm: Mapping[str, float] = field(default_factory=dict)
    habitus_cm2: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        ids = [c.id for c in self.classes]
        if ids != list(range(len(ids))):
            raise AnatomyError(f"label ids of {self.name!r} must run 0..{len(ids) - 1} in order, got {ids}.")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def field_mm(self) -> tuple[float, float, float]:
        """Extent of the field of view along x, y, z."""
        x, y, z = (n * mm for n, mm in zip(self.shape, self.spacing_mm, strict=True))
        return x, y, z

    @cached_property
    def ids(self) -> dict[str, int]:
        """Class name -> label id."""
        return {c.name: c.id for c in self.classes}

    @cached_property
    def organ(self) -> dict[str, FindingOrgan]:
        """Report name of an organ -> what may be said of it."""
        return {o.name: o for o in self.organs}

    @property
    def lesion_id(self) -> int:
        return self.ids[self.lesion_class]

    def id_of(self, name: str) -> int:
        """Label id of a class name; AnatomyError with the table when there is no such class."""
        if name not in self.ids:
            raise AnatomyError(f"no class {name!r} in the {self.name} table; it has: {', '.join(self.ids)}.")
        return self.ids[name]

    def organ_of(self, name: str) -> FindingOrgan:
        """What a report may say of an organ; AnatomyError with the vocabulary when it is unknown."""
        if name not in self.organ:
            raise AnatomyError(f"unknown organ {name!r} for {self.name}; known: {', '.join(self.organ)}.")
        return self.organ[name]

    def lookup(self, source_classes: Mapping[int, str]) -> tuple[np.ndarray, list[str]]:
        """A uint8 table of 256 entries from source label id to ours, and the source names that have no place in it.

        Names are compared without regard to case, spaces, hyphens and underscores.
        """
        wanted = {_plain(s): c.id for c in self.classes for s in (c.name, *c.sources)}
        table = np.zeros(256, np.uint8)
        unmapped = []
        for source_id, name in source_classes.items():
            if not 0 <= int(source_id) < 256:
                raise AnatomyError(f"source label ids must be 0..255, got {source_id} for {name!r}.")
            if _plain(name) in wanted:
                table[int(source_id)] = wanted[_plain(name)]
            elif name != "background":
                unmapped.append(name)
        return table, unmapped


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "").replace("-", "")


def _sides(name: str) -> tuple[str, ...]:
    return (f"{name}_left", f"{name}_right")


_LOBES = ("upper_lobe_left", "lower_lobe_left", "upper_lobe_right", "middle_lobe_right", "lower_lobe_right")
_VERTEBRAE = ("S1", *(f"L{i}" for i in range(1, 6)), *(f"T{i}" for i in range(1, 13)), *(f"C{i}" for i in range(1, 8)))
_RIBS = tuple(f"rib_{side}_{i}" for side in ("left", "right") for i in range(1, 13))

_TORSO_CLASSES = (
    OrganClass(0, "background", (), (-1024, 3000), (0, 1e9), (0, 0, 0)),
    OrganClass(1, "spleen", ("spleen",), (20, 230), (60, 900), (211, 162, 255)),
    OrganClass(2, "kidney", (*_sides("kidney"), *_sides("kidney_cyst")), (0, 300), (60, 650), (255, 146, 72)),
    OrganClass(3, "liver", ("liver",), (10, 190), (600, 3500), (160, 74, 58)),
    OrganClass(4, "stomach", ("stomach",), (-500, 120), (40, 1500), (255, 151, 181)),
    OrganClass(5, "pancreas", ("pancreas",), (-40, 170), (10, 220), (255, 198, 20)),
    OrganClass(6, "lung", tuple(f"lung_{x}" for x in _LOBES), (-950, -500), (800, 9000), (120, 214, 205)),
    OrganClass(7, "small bowel", ("small_bowel",), (-200, 150), (100, 2500), (186, 140, 96)),
    OrganClass(8, "duodenum", ("duodenum",), (-200, 150), (10, 250), (248, 255, 146)),
    OrganClass(9, "colon", ("colon",), (-700, 120), (150, 3000), (131, 126, 20)),
    OrganClass(10, "urinary bladder", ("urinary_bladder",), (-20, 120), (15, 1200), (232, 255, 20)),
    OrganClass(11, "heart", ("heart", "atrial_appendage_left"), (10, 450), (250, 1500), (236, 24, 106)),
    OrganClass(12, "vertebrae", tuple(f"vertebrae_{v}" for v in _VERTEBRAE), (80, 500), (200, 1600), (240, 225, 200)),
    OrganClass(13, "rib", _RIBS, (20, 600), (30, 700), (117, 198, 144)),
    OrganClass(14, "adrenal gland", _sides("adrenal_gland"), (-40, 150), (2, 40), (231, 80, 250)),
    OrganClass(15, "portal and splenic vein", ("portal_vein_and_splenic_vein",), (0, 260), (5, 110), (34, 166, 255)),
    OrganClass(16, "esophagus", ("esophagus",), (-150, 130), (4, 90), (173, 52, 144)),
    OrganClass(17, "aorta", ("aorta",), (10, 500), (30, 600), (255, 50, 40)),
    OrganClass(18, "inferior vena cava", ("inferior_vena_cava",), (10, 250), (15, 200), (50, 100, 230)),
    OrganClass(19, "gallbladder", ("gallbladder",), (-25, 80), (4, 220), (40, 164, 35)),
    OrganClass(20, "tumour", (), (-50, 220), (0.2, 1500), (120, 255, 50)),
)

_REMOVABLE = ("normal", "enlarged", "small", "absent")
_SIZED = ("normal", "enlarged", "small")
_LUNG_SITES = ("upper lobe", "lower lobe")

_TORSO_ORGANS = (
    FindingOrgan("liver", "liver", statuses=_SIZED, sites=("right lobe", "left lobe")),
    FindingOrgan("spleen", "spleen", statuses=_REMOVABLE, sites=("",)),
    FindingOrgan("right kidney", "kidney", "right", statuses=_REMOVABLE, sites=("",)),
    FindingOrgan("left kidney", "kidney", "left", statuses=_REMOVABLE, sites=("",)),
    FindingOrgan("gallbladder", "gallbladder", statuses=_REMOVABLE),
    FindingOrgan("pancreas", "pancreas", statuses=_SIZED, sites=("head", "body", "tail")),
    FindingOrgan("stomach", "stomach", statuses=_SIZED, sites=("",)),
    FindingOrgan("urinary bladder", "urinary bladder", statuses=_REMOVABLE, sites=("",)),
    FindingOrgan(
        "colon", "colon", statuses=("normal",), sites=("ascending", "transverse", "descending", "sigmoid", "rectum")
    ),
    FindingOrgan("right adrenal gland", "adrenal gland", "right", statuses=("normal",), sites=("",)),
    FindingOrgan("left adrenal gland", "adrenal gland", "left", statuses=("normal",), sites=("",)),
    FindingOrgan("right lung", "lung", "right", statuses=("normal",), sites=_LUNG_SITES),
    FindingOrgan("left lung", "lung", "left", statuses=("normal",), sites=_LUNG_SITES),
    FindingOrgan("heart", "heart", statuses=_SIZED),
    FindingOrgan("aorta", "aorta", statuses=("normal", "enlarged")),
    FindingOrgan("duodenum", "duodenum"),
    FindingOrgan("small bowel", "small bowel"),
    FindingOrgan("esophagus", "esophagus"),
    FindingOrgan("inferior vena cava", "inferior vena cava"),
    FindingOrgan("portal and splenic vein", "portal and splenic vein"),
)

_ABDOMEN = {
    "liver", "spleen", "right kidney", "left kidney", "gallbladder", "pancreas", "stomach", "colon", "aorta",
    "right adrenal gland", "left adrenal gland", "duodenum", "small bowel", "inferior vena cava",
    "portal and splenic vein",
}  # fmt: skip
_CHEST = {"right lung", "left lung", "heart", "aorta", "esophagus"}

TORSO = Anatomy(
    name="torso",
    classes=_TORSO_CLASSES,
    organs=_TORSO_ORGANS,
    regions=("chest", "abdomen", "abdomen and pelvis"),
    # What a 384 mm field shows: a chest scan reaches the kidneys, an abdomen scan the lung bases.
    region_organs={
        "chest": frozenset(_CHEST | (_ABDOMEN - {"colon", "small bowel"})),
        "abdomen": frozenset(_ABDOMEN | _CHEST),
        "abdomen and pelvis": frozenset(_ABDOMEN | {"urinary bladder"}),
    },
)

# Ranges, places and sizes as `guidegen prepare` measured them on the 170 training patients of OpenKBP.
_HEAD_NECK_CLASSES = (
    OrganClass(0, "background", (), (-1024, 3000), (0, 1e9), (0, 0, 0)),
    OrganClass(1, "brainstem", ("Brainstem",), (-48, 51), (2.77, 67.1), (20, 245, 203)),
    OrganClass(2, "spinal cord", ("SpinalCord",), (-58, 110), (2.67, 85.6), (255, 159, 20)),
    OrganClass(3, "right parotid", ("RightParotid",), (-145, 120), (2.08, 87.3), (222, 20, 39)),
    OrganClass(4, "left parotid", ("LeftParotid",), (-158, 122), (3.53, 80.6), (192, 67, 255)),
    OrganClass(5, "esophagus", ("Esophagus",), (-871, 413), (1.56, 60.3), (254, 70, 167)),
    OrganClass(6, "larynx", ("Larynx",), (-714, 238), (0.27, 96.4), (28, 116, 208)),
    OrganClass(7, "mandible", ("Mandible",), (238, 1162), (13.52, 164.5), (240, 255, 142)),
    OrganClass(8, "ptv70", ("PTV70",), (-185, 149), (20.61, 1867.7), (120, 255, 50)),
    OrganClass(9, "soft tissue", (), (-150, 120), (0, 1e9), (130, 105, 95), (-300.0, 250.0)),
    OrganClass(10, "bone", (), (280, 1500), (0, 1e9), (255, 255, 252), (250.0, 3100.0)),
)

_LEVELS = ("upper third", "middle third", "lower third")
_HEAD_NECK_ORGANS = (
    # A contour of the cord ends where the contouring did: its volume says nothing.
    *(
        FindingOrgan(c.name, c.name, statuses=("normal", "absent") if c.name == "spinal cord" else _REMOVABLE)
        for c in _HEAD_NECK_CLASSES
        if 0 < c.id < 8
    ),
    FindingOrgan("right hemineck", "soft tissue", "right", sites=_LEVELS),
    FindingOrgan("left hemineck", "soft tissue", "left", sites=_LEVELS),
    FindingOrgan("central neck", "soft tissue", sites=_LEVELS),
)

HEAD_NECK = Anatomy(
    name="head-neck",
    classes=_HEAD_NECK_CLASSES,
    organs=_HEAD_NECK_ORGANS,
    # Planning CTs are whole, or cut down to the treated part of the neck: air outside it.
    regions=("head and neck", "neck"),
    lesion_class="ptv70",
    spacing_mm=(2.5, 2.5, 2.5),
    region_organs=dict.fromkeys(("head and neck", "neck"), frozenset(o.name for o in _HEAD_NECK_ORGANS)),
    frame=LesionFrame(12.0, (51.0, 25.0), ((-68.0, 68.0), (-36.0, 76.0), (-51.0, 108.0)), "soft tissue"),
    layout_mm={
        "brainstem": (0.2, -16.3, 113.8),
        "spinal cord": (0.0, -36.1, -13.7),
        "right parotid": (58.7, 9.0, 76.3),
        "left parotid": (-59.5, 8.8, 77.4),
        "esophagus": (-2.8, -16.1, -65.9),
        "larynx": (-0.3, 20.0, -4.0),
        "mandible": (0.3, 56.5, 62.4),
    },
    size_ml={
        "brainstem": (18.48, 31.15),
        "right parotid": (16.67, 33.91),
        "left parotid": (14.77, 35.94),
        "esophagus": (6.63, 18.01),
        "larynx": (6.54, 34.49),
        "mandible": (38.59, 75.61),
    },
    region_width_mm={"neck": 0.0, "head and neck": 285.0},
    habitus_cm2=(144.2, 217.9),
)

ANATOMIES = {a.name: a for a in (TORSO, HEAD_NECK)}


def anatomy_named(name: str) -> Anatomy:
    """The label table of that name; AnatomyError naming the known ones otherwise."""
    if name not in ANATOMIES:
        raise AnatomyError(f"unknown anatomy {name!r}; known: {', '.join(ANATOMIES)}.")
    return ANATOMIES[name]
