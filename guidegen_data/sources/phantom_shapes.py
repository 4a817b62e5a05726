"""The parts of the procedural torso as shapes, in mm of a patient's frame: x right and y forward of L3, z above S1.

Places and sizes follow adult anatomy; `patient_parts` draws one patient's variation of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline

Point = tuple[float, float, float]
Knot = tuple[float, float, float, float]


@dataclass(frozen=True)
class Blob:
    """A superellipsoid: sum of |offset / radius| ** 2.5 below 1, turned in the coronal plane (its top to the right)."""

    centre: Point
    radii: Point
    turn_deg: float = 0.0


@dataclass(frozen=True)
class Tube:
    """Balls along a smooth curve through knots (x, y, z, radius)."""

    knots: tuple[Knot, ...]
    folds: float = 0.0  # share by which the radius swings along the tube, as haustra do

    def balls(self) -> np.ndarray:
        """Centres and radii (N, 4), closer together than half a radius."""
        knots = np.asarray(self.knots, np.float64)
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))])
        at = np.linspace(0, along[-1], int(along[-1] / (0.45 * knots[:, 3].min())) + 2)
        centres = CubicSpline(along, knots[:, :3])(at)
        radii = np.interp(at, along, knots[:, 3]) * (1 + self.folds * np.sin(at / 6.5))
        return np.column_stack([centres, radii])


Part = tuple[str, Blob | Tube, str]  # class name or what only the CT shows, shape, where it may lie

# Centre heights of the vertebral bodies from S1 up to C5, and the y of their column by height.
_LEVELS = (20, 45, 77, 107, 139, 171, 203, 231, 258, 284, 309, 334, 358, 381, 403, 424, 444, 463, 480, 496, 512)
_COLUMN_Z = (0, 45, 107, 171, 203, 300, 361, 420, 463, 512)
_COLUMN_Y = (2, 10, 13, 11, 9, -3, -8, 6, 36, 62)
TOP_RIB = 17  # index in _LEVELS of T1

_AORTA: tuple[Knot, ...] = (
    (6, 72, 312, 15), (18, 78, 345, 15), (12, 66, 385, 14), (-5, 40, 394, 12), (-17, 20, 372, 12), (-19, 12, 335, 11),
    (-18, 16, 285, 11), (-16, 28, 245, 10.5), (-14, 38, 200, 10), (-14, 42, 150, 9), (-12, 46, 100, 8.5),
    (-10, 48, 55, 8),
)  # fmt: skip
_CAVA: tuple[Knot, ...] = (
    (16, 44, 48, 8), (17, 46, 105, 9.5), (20, 44, 165, 10.5), (25, 44, 205, 10.5), (26, 46, 230, 11), (26, 60, 275, 12),
)  # fmt: skip
_ESOPHAGUS: tuple[Knot, ...] = (
    (0, 64, 490, 6), (8, 42, 435, 6.5), (8, 28, 400, 6.5), (4, 24, 365, 6.5), (3, 26, 325, 6.5), (-2, 34, 285, 7),
    (-12, 50, 252, 7), (-26, 58, 232, 7),
)  # fmt: skip
_VEINS: tuple[tuple[Knot, ...], ...] = (
    ((-78, 24, 194, 4.5), (-44, 48, 186, 5), (-12, 64, 178, 5.5), (12, 66, 172, 6.5),
     (38, 70, 194, 7), (62, 66, 207, 6.5)),
    ((14, 72, 135, 5), (13, 69, 155, 5.5), (12, 66, 172, 6)),
    ((50, 68, 202, 6), (30, 86, 214, 5), (12, 94, 220, 4.5)),
)  # fmt: skip
_ADRENALS: tuple[tuple[Knot, ...], ...] = (
    ((36, 34, 216, 4), (40, 24, 204, 4.4), (44, 12, 192, 4)),
    ((36, 34, 216, 4), (36, 24, 202, 4.4), (33, 14, 192, 4)),
    ((-38, 44, 208, 4), (-44, 36, 200, 4.4), (-50, 26, 190, 4)),
    ((-38, 44, 208, 4), (-38, 34, 198, 4.4), (-36, 26, 188, 4)),
)  # fmt: skip
_DUODENUM: tuple[Knot, ...] = (
    (38, 92, 170, 11), (52, 80, 164, 11), (58, 64, 142, 11), (52, 60, 114, 11), (28, 69, 104, 10.5), (0, 71, 105, 10),
    (-26, 70, 112, 10), (-34, 72, 126, 10),
)  # fmt: skip
_PANCREAS: tuple[Knot, ...] = (
    (32, 66, 128, 10), (34, 70, 144, 14), (24, 76, 160, 12), (6, 82, 174, 9.5), (-18, 78, 182, 10.5),
    (-46, 58, 191, 10.5), (-76, 32, 200, 9),
)  # fmt: skip
_STOMACH: tuple[Knot, ...] = (
    (-58, 42, 236, 28), (-62, 60, 220, 34), (-58, 82, 196, 29), (-42, 98, 168, 24), (-10, 104, 156, 20),
    (18, 102, 162, 16), (34, 95, 168, 11),
)  # fmt: skip
_COLON: tuple[Knot, ...] = (
    (78, 68, 4, 21), (88, 56, 28, 25), (98, 38, 70, 22), (100, 28, 110, 21), (92, 44, 138, 20), (72, 84, 138, 19),
    (36, 104, 118, 18), (-4, 112, 110, 18), (-48, 108, 124, 18), (-84, 92, 158, 18), (-104, 66, 182, 17),
    (-113, 32, 166, 15), (-113, 6, 120, 14), (-108, 22, 62, 14), (-96, 48, 24, 14), (-72, 66, 0, 14),
    (-44, 70, -16, 14), (-8, 52, -14, 14), (22, 24, -22, 15), (14, -2, -38, 15), (0, -14, -62, 17), (0, -8, -86, 16),
    (0, 4, -108, 12),
)  # fmt: skip
_TRACHEA: tuple[Knot, ...] = ((2, 74, 490, 8), (4, 62, 440, 8), (6, 46, 395, 8), (6, 42, 372, 8))


def spine_y(z: np.ndarray | float) -> np.ndarray:
    """y in mm of the middle of the vertebral bodies at height z."""
    return np.asarray(np.interp(z, _COLUMN_Z, _COLUMN_Y))


def _vertebrae() -> list[Part]:
    parts: list[Part] = []
    for level, z in enumerate(_LEVELS):
        size = float(np.interp(z, (0, 60, 200, 400, 512), (1.0, 1.0, 0.85, 0.68, 0.55)))
        y = float(spine_y(z))
        height = 0.5 * (np.diff(_LEVELS)[min(level, len(_LEVELS) - 2)]) - 1
        back, low = y - 25 * size - 8, z - 6
        parts.append(("vertebrae", Blob((0, y, z), (25 * size, 19 * size, height)), "body"))
        parts.append(
            (
                "vertebrae",
                Tube(((0, back, low, 4), (0, back - 14 * size, low - 8, 4.5), (0, back - 26 * size, low - 14, 4))),
                "body",
            )
        )
        for side in (1, -1):
            arch = (
                (side * 15 * size, y - 14 * size, z + 4, 5),
                (side * 14 * size, back + 3, z - 2, 5),
                (0, back, low, 4),
            )
            wing = ((side * 14 * size, back + 6, z, 5), (side * 40 * size, back + 2, z, 4))
            parts += [("vertebrae", Tube(arch), "body"), ("vertebrae", Tube(wing), "body")]
    return parts


def _ribs(wall: Callable[[float, float], tuple[float, float]]) -> list[Part]:
    """Ribs 1 to 12 of both sides along `wall(angle, z)`, the (x, y) of the chest wall on the patient's right."""
    parts: list[Part] = []
    ends = np.interp(np.arange(1, 13), (1, 5, 7, 10, 11, 12), (0.8, 0.86, 0.84, 0.6, 0.42, 0.3))
    drops = np.interp(np.arange(1, 13), (1, 4, 8, 10, 12), (42, 68, 88, 92, 48))
    for rib in range(12):
        head_z = _LEVELS[TOP_RIB - rib] + 5
        knots = [(20.0, float(spine_y(head_z)) - 22.0, float(head_z), 4.6)]
        for share in np.linspace(0.12, ends[rib], 9):
            z = head_z - drops[rib] * float(share / ends[rib]) ** 1.2
            knots.append((*wall(share * np.pi, z), z, 4.8))
        for side in (1, -1):
            parts.append(("rib", Tube(tuple((side * x, y, z, r) for x, y, z, r in knots)), "body"))
    return parts


def _small_bowel(rng: np.random.Generator, radius: float) -> list[Part]:
    """Loops that wander from side to side within the colon's frame, from the left upper to the right lower belly."""
    knots: list[Knot] = []
    depths = (62.0, 90.0)
    for row, z in enumerate(np.linspace(104, -48, 9)):
        reach = float(np.interp(z, (-50, 0, 100), (34, 66, 74)))
        for depth in depths if row % 2 else depths[::-1]:
            direction = 1 if len(knots) // 5 % 2 else -1
            for x in np.linspace(-reach, reach, 5) * direction:
                wave = rng.normal(0, 5, 3)
                knots.append((x + wave[0] - 4, depth + wave[1], float(z) + 11 * np.sin(x / 13) + wave[2], radius))
    return [("small bowel", Tube(tuple(knots), folds=0.1), "belly")]


def _unlabelled() -> list[Part]:
    """What has no class of its own: sacrum, breastbone, ilium, hip joint, femur; discs and the psoas muscles."""
    parts: list[Part] = [("bone", Blob((0, -34, -22), (42, 16, 44), 0), "body")]
    parts.append(("bone", Tube(((0, 130, 300, 8), (0, 128, 350, 8), (0, 112, 395, 8), (0, 96, 425, 9))), "body"))
    for side in (1, -1):
        for lower, upper in ((-20, 40), (0, 54), (24, 46)):
            y_front = 62 - abs(upper - 54)
            knots = ((44, -46, lower), (88, -30, upper - 10), (122, 8, upper), (112, y_front, upper - 28))
            parts.append(("bone", Tube(tuple((side * x, y, z, 6.0) for x, y, z in knots)), "body"))
        parts.append(("bone", Blob((side * 86, 24, -82), (27, 27, 27)), "body"))
        parts.append(
            ("bone", Tube(((side * 86, 24, -82, 17), (side * 118, 14, -96, 17), (side * 122, 12, -190, 15))), "body")
        )
        parts.append(("bone", Tube(((side * 80, 36, -62, 9), (side * 40, 72, -80, 8), (side * 6, 76, -92, 9))), "body"))
        psoas = ((26, 16, 172, 9), (38, 22, 100, 18), (60, 38, 20, 20), (78, 52, -60, 15))
        parts.append(("muscle", Tube(tuple((side * x, y, z, r) for x, y, z, r in psoas)), "body"))
        back = tuple((side * 28.0, float(spine_y(z)) - 46, float(z), 21.0) for z in range(-40, 440, 60))
        parts.append(("muscle", Tube(back), "body"))
    discs = tuple((0.0, float(spine_y(z)), float(z), 18.0) for z in _LEVELS)
    return [*parts, ("muscle", Tube(discs), "body")]


def _varied(parts: list[Part], rng: np.random.Generator, spread: float = 0.1) -> list[Part]:
    """One organ moved by some mm and scaled about its own middle."""
    places = [p.centre if isinstance(p, Blob) else np.mean(np.asarray(p.knots)[:, :3], axis=0) for _, p, _ in parts]
    middle = np.mean(np.asarray(places), axis=0)
    shift, scale = rng.normal(0, 2.5, 3), float(rng.uniform(1 - spread, 1 + spread))
    out: list[Part] = []
    for name, shape, place in parts:
        if isinstance(shape, Blob):
            x, y, z = (float(v) for v in middle + scale * (np.asarray(shape.centre) - middle) + shift)
            a, b, c = (scale * r for r in shape.radii)
            out.append((name, replace(shape, centre=(x, y, z), radii=(a, b, c)), place))
        else:
            knots = np.asarray(shape.knots, np.float64)
            knots[:, :3] = middle + scale * (knots[:, :3] - middle) + shift
            knots[:, 3] *= scale
            out.append((name, replace(shape, knots=tuple(tuple(k) for k in knots.tolist())), place))
    return out


def _widened(
    knots: tuple[Knot, ...], factor: float, sag_mm: float = 0.0, sagging: slice = slice(0)
) -> tuple[Knot, ...]:
    table = np.asarray(knots, np.float64)
    table[:, 3] *= factor
    table[sagging, 2] -= sag_mm * np.hanning(len(table[sagging]) + 2)[1:-1]
    return tuple(tuple(k) for k in table.tolist())


def patient_parts(rng: np.random.Generator, wall: Callable[[float, float], tuple[float, float]]) -> list[Part]:
    """The parts of one patient in the order in which they take their room: a later part fills what is left."""
    fill = float(rng.uniform(0.75, 1.6))
    bladder = Blob((0, 44, -96 + 22 * fill), (30 * fill, 25 * fill, 22 * fill))
    kidneys: list[Part] = []
    sinuses: list[Part] = []
    capsules: list[Part] = []
    for side, z in ((1, 160), (-1, 170)):
        kidneys.append(("kidney", Blob((side * 66, 0, z), (29, 25, 52), -side * 14), "belly"))
        sinuses.append(("fat", Blob((side * 48, 8, z), (14, 12, 20)), "belly"))
        capsules.append(("fat", Blob((side * 62, -18, z), (38, 46, 54), -side * 14), "belly"))
    lobes = [Blob((72, 50, 204), (64, 90, 74), 8), Blob((8, 92, 222), (66, 42, 34), 14)]
    colon = _widened(_COLON, float(rng.uniform(0.75, 1.08)), float(rng.uniform(-5, 45)), slice(5, 10))
    vessel = float(rng.uniform(0.85, 1.12))
    groups: list[list[Part]] = [
        [("aorta", Tube(_widened(_AORTA, vessel)), "body")],
        [("inferior vena cava", Tube(_widened(_CAVA, vessel)), "body")],
        [("esophagus", Tube(_ESOPHAGUS), "body")],
        [("portal and splenic vein", Tube(_widened(k, vessel)), "belly") for k in _VEINS],
        [("adrenal gland", Tube(k), "belly") for k in _ADRENALS[:2]],
        [("adrenal gland", Tube(k), "belly") for k in _ADRENALS[2:]],
        [("heart", Blob((-14, 88, 298), (52, 44, 62), 34), "chest")],
        sinuses,
        kidneys,
        [("gallbladder", Blob((60, 96, 158), (14.5, 16, 25), 12), "belly")],
        [("duodenum", Tube(_DUODENUM, folds=0.05), "belly")],
        [("pancreas", Tube(_PANCREAS, folds=0.08), "belly")],
        [("colon", Tube(colon, folds=0.1), "belly")],
        [("spleen", Blob((-100, -2, 216), (31, 50, 54), 14), "belly")],
        capsules,  # the liver and the bowel lie in front of the fat around the kidneys
        [("liver", lobe, "belly") for lobe in lobes],
        [("stomach", Tube(_widened(_STOMACH, float(rng.uniform(0.75, 1.15)))), "belly")],
        [("urinary bladder", bladder, "body")],
    ]  # fmt: skip
    parts = [part for group in groups for part in _varied(group, rng)]
    bowel = _varied(_small_bowel(rng, float(rng.uniform(9, 12))), rng, 0.04)
    return [*_vertebrae(), *_ribs(wall), ("airway", Tube(_TRACHEA), "body"), *parts, *bowel, *_unlabelled()]
