"""Public CT label sets by name: their ids as published, and what of ours becomes which of them.

Sources: TotalSegmentator v2 task 'total' (Wasserthal et al. 2023); BTCV, 'Multi-atlas labeling beyond the cranial
vault' (Landman et al. 2015); AMOS 2022 (Ji et al.); Medical Segmentation Decathlon (Antonelli et al. 2022);
KiTS19, KiTS21 and KiTS23 (Heller et al.).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from guidegen_data.anatomy import TORSO, Anatomy
from guidegen_data.errors import LabelMapError
from guidegen_data.label_maps.projection import Projection

_LOBES = ("upper_lobe_left", "lower_lobe_left", "upper_lobe_right", "middle_lobe_right", "lower_lobe_right")
_VERTEBRAE = ("S1", *(f"L{i}" for i in range(5, 0, -1)), *(f"T{i}" for i in range(12, 0, -1)),
              *(f"C{i}" for i in range(7, 0, -1)))  # fmt: skip
_RIBS = tuple(f"rib_{side}_{i}" for side in ("left", "right") for i in range(1, 13))


def _both(*names: str, sides: tuple[str, str] = ("left", "right")) -> tuple[str, ...]:
    return tuple(f"{name}_{side}" for name in names for side in sides)


_TOTALSEGMENTATOR = (
    "spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas", "adrenal_gland_right",
    "adrenal_gland_left", *(f"lung_{lobe}" for lobe in _LOBES), "esophagus", "trachea", "thyroid_gland", "small_bowel",
    "duodenum", "colon", "urinary_bladder", "prostate", "kidney_cyst_left", "kidney_cyst_right", "sacrum",
    *(f"vertebrae_{v}" for v in _VERTEBRAE), "heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk",
    *_both("subclavian_artery", "common_carotid_artery", sides=("right", "left")), *_both("brachiocephalic_vein"),
    "atrial_appendage_left", "superior_vena_cava", "inferior_vena_cava", "portal_vein_and_splenic_vein",
    *_both("iliac_artery", "iliac_vena", "humerus", "scapula", "clavicula", "femur", "hip"), "spinal_cord",
    *_both("gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas"), "brain", "skull",
    *_RIBS, "sternum", "costal_cartilages",
)  # fmt: skip

_BTCV = (
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
)  # fmt: skip

_AMOS = (
    "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "aorta", "postcava",
    "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate/uterus",
)  # fmt: skip

# Decathlon tasks of MRI, which no CT can serve.
_MRI = {"msd_task01_braintumour", "msd_task02_heart", "msd_task04_hippocampus", "msd_task05_prostate"}


@dataclass(frozen=True)
class LabelSet:
    """A public label set. `labels` are its names and ids, `sources` say what of ours becomes which name.

    `finer` are our classes that it has in parts only (a lung in five lobes): no single label is right for them.
    """

    name: str
    labels: Mapping[str, int]
    sources: Mapping[str, str]
    finer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    anatomy: Anatomy = TORSO

    @property
    def never_synthetic(self) -> tuple[str, ...]:
        """Its labels that no case of ours shows."""
        reached = set(self.sources.values()).union(*self.finer.values())
        return tuple(name for name in self.labels if name not in reached)

    def projection(self, ignore_label: int | None = None) -> Projection:
        """Our label maps onto its ids. Classes that it splits get `ignore_label`; LabelMapError when none is given."""
        label_map: dict[str, int | None] = {ours: self.labels[theirs] for ours, theirs in self.sources.items()}
        if self.finer and ignore_label is None:
            raise LabelMapError(
                f"{self.name} splits {', '.join(self.finer)} into parts that our label maps do not tell apart, and to "
                f"call them background would be wrong; give ignore_label= with an id that your loss leaves out."
            )
        if ignore_label is not None and ignore_label in {0, *self.labels.values()}:
            raise LabelMapError(f"ignore_label {ignore_label} is a label of {self.name} already; give another id.")
        return Projection.from_map(self.anatomy, label_map | dict.fromkeys(self.finer, ignore_label))


def _numbered(names: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names, start=1)}


def _by_name(names: tuple[str, ...], **renamed: str) -> dict[str, str]:
    """Our name -> theirs: equal ones, and those that are `renamed` (ours with '_' for ' ')."""
    ours = {"spleen", "gallbladder", "esophagus", "liver", "stomach", "aorta", "pancreas", "duodenum", "colon", "heart"}
    ours |= {"inferior vena cava", "right kidney", "left kidney", "right adrenal gland", "left adrenal gland"}
    return {name: name for name in names if name in ours} | {k.replace("_", " "): v for k, v in renamed.items()}


def _tumour_task(name: str, **labels: str) -> LabelSet:
    """A set whose labels 1, 2, ... are what our sources (with '_' for ' ') become."""
    ids = _numbered(tuple(dict.fromkeys(labels.values())))
    return LabelSet(name, ids, {source.replace("_", " "): label for source, label in labels.items()})


_SETS = (
    LabelSet(
        "totalsegmentator_v2",
        _numbered(_TOTALSEGMENTATOR),
        _by_name(
            _TOTALSEGMENTATOR,
            right_kidney="kidney_right",
            left_kidney="kidney_left",
            right_adrenal_gland="adrenal_gland_right",
            left_adrenal_gland="adrenal_gland_left",
            small_bowel="small_bowel",
            urinary_bladder="urinary_bladder",
            inferior_vena_cava="inferior_vena_cava",
            portal_and_splenic_vein="portal_vein_and_splenic_vein",
        ),
        {
            "lung": tuple(f"lung_{lobe}" for lobe in _LOBES),
            "vertebrae": tuple(f"vertebrae_{v}" for v in _VERTEBRAE),
            "rib": _RIBS,
        },
    ),
    LabelSet("btcv", _numbered(_BTCV), _by_name(_BTCV, portal_and_splenic_vein="portal vein and splenic vein")),
    LabelSet(
        "amos",
        _numbered(_AMOS),
        _by_name(_AMOS, gallbladder="gall bladder", inferior_vena_cava="postcava", urinary_bladder="bladder"),
    ),
    _tumour_task("msd_task03_liver", liver="liver", liver_tumour="cancer"),
    _tumour_task("msd_task06_lung", lung_tumour="cancer"),
    _tumour_task("msd_task07_pancreas", pancreas="pancreas", pancreas_tumour="cancer"),
    # Our portal and splenic vein runs outside the liver, theirs is every vessel within it: no label of ours fits.
    LabelSet("msd_task08_hepaticvessel", {"Vessel": 1, "Tumour": 2}, {"liver tumour": "Tumour"}),
    _tumour_task("msd_task09_spleen", spleen="spleen"),
    _tumour_task("msd_task10_colon", colon_tumour="colon cancer primaries"),
    _tumour_task("kits19", kidney="kidney", kidney_tumour="tumor"),
    LabelSet("kits21", {"kidney": 1, "tumor": 2, "cyst": 3}, {"kidney": "kidney", "kidney tumour": "tumor"}),
    LabelSet("kits23", {"kidney": 1, "tumor": 2, "cyst": 3}, {"kidney": "kidney", "kidney tumour": "tumor"}),
)
PUBLIC: dict[str, LabelSet] = {s.name: s for s in _SETS}


def label_set(name: str) -> LabelSet:
    """The public label set of that name; LabelMapError when there is none, or when it is a set of MRI."""
    if name in _MRI:
        raise LabelMapError(
            f"{name} is a task on MRI, and all our images are CT; choose a CT task: {', '.join(PUBLIC)}."
        )
    if name not in PUBLIC:
        raise LabelMapError(f"no label set {name!r}; known: {', '.join(PUBLIC)}.")
    return PUBLIC[name]
