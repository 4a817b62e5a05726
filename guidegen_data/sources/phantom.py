"""A procedural torso: label map and CT of a made-up patient, for tests and for more variety of shapes in training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import TORSO
from guidegen_data.errors import SourceError
from guidegen_data.sources.phantom_shapes import Blob, Tube, patient_parts

# Where the 384 mm field of each region starts, in mm above the lower end of S1; the chest hangs from its top.
_BOTTOM_MM = {"abdomen": -12.0, "abdomen and pelvis": -112.0}
_CHEST_TOP_MM = 486.0

# By height: half width and half depth of the trunk inside its fat, and the y of its middle.
_TRUNK = np.array([
    (-220, 150, 85, 12), (-100, 158, 92, 18), (-40, 152, 92, 22), (20, 144, 92, 30), (90, 142, 92, 34),
    (160, 146, 96, 40), (230, 152, 102, 44), (310, 152, 100, 42), (380, 150, 90, 34), (425, 142, 76, 34),
    (455, 110, 66, 38), (485, 74, 60, 44), (540, 66, 58, 54),
], np.float32)  # fmt: skip
# The same for the room of lungs, belly and pelvis.
_CAVITY = np.array([
    (-220, 20, 10, 20), (-125, 40, 38, 26), (-90, 62, 54, 26), (-40, 88, 68, 38), (20, 112, 74, 48), (90, 126, 80, 44),
    (160, 132, 88, 46), (230, 135, 94, 46), (300, 128, 92, 46), (350, 118, 84, 42), (395, 98, 68, 36),
    (425, 72, 50, 38), (446, 46, 34, 44), (462, 16, 14, 50), (540, 4, 4, 54),
], np.float32)  # fmt: skip

_HU = {
    "spleen": 50, "kidney": 34, "liver": 58, "stomach": 30, "pancreas": 42, "lung": -840, "small bowel": 28,
    "duodenum": 28, "colon": 30, "urinary bladder": 6, "heart": 46, "vertebrae": 190, "rib": 300, "adrenal gland": 28,
    "portal and splenic vein": 42, "esophagus": 34, "aorta": 50, "inferior vena cava": 46, "gallbladder": 8,
}  # fmt: skip
# Added by the contrast medium in the arterial and the portal venous phase.
_CONTRAST_HU = {
    "aorta": (240, 110), "heart": (190, 100), "inferior vena cava": (20, 95), "portal and splenic vein": (50, 120),
    "kidney": (110, 150), "spleen": (60, 70), "liver": (12, 52), "pancreas": (60, 50), "adrenal gland": (40, 35),
    "stomach": (4, 6), "small bowel": (20, 30), "duodenum": (20, 30), "colon": (6, 12), "esophagus": (10, 20),
}  # fmt: skip
_MARKS = {"bone": 251, "muscle": 252, "airway": 253, "fat": 254}  # painted like labels, shown by the CT only
_MARK_HU = {"bone": 240, "muscle": 58, "airway": -990, "fat": -95}


def phantom(
    rng: np.random.Generator,
    region: str = "abdomen and pelvis",
    shape: tuple[int, int, int] = (128, 128, 128),
    spacing_mm: float = 3.0,
) -> tuple[np.ndarray, np.ndarray]:
    """(label map uint8, CT int16 in HU), both (X, Y, Z) RAS+, of a patient drawn from `rng`.

    The field starts at the hips, at L5, or for the chest ends at C7. Raises SourceError for another region.
    """
    if region not in TORSO.regions:
        raise SourceError(f"a phantom shows one of the regions {', '.join(TORSO.regions)}, not {region!r}.")
    canvas = _canvas(rng, region, shape, spacing_mm)
    for name, part, place in patient_parts(rng, _chest_wall):
        value = _MARKS[name] if name in _MARKS else TORSO.ids[name]
        if isinstance(part, Blob):
            canvas.blob(part, value, canvas.rooms[place])
        else:
            canvas.tube(part, value, canvas.rooms[place])
    canvas.labels[canvas.rooms["lung"] & (canvas.labels == 0)] = TORSO.ids["lung"]
    ct_hu = _ct(canvas, rng)
    return np.where(canvas.labels >= TORSO.num_classes, 0, canvas.labels).astype(np.uint8), ct_hu


@dataclass(frozen=True)
class _Canvas:
    """The field of view: for each voxel its place (3, X, Y, Z) in the patient's frame, and the labels so far.

    `to_voxel` (3, 4) takes a place in the patient's frame to about its voxel; `rooms` are bool (X, Y, Z).
    """

    place_mm: np.ndarray
    to_voxel: np.ndarray
    labels: np.ndarray
    rooms: dict[str, np.ndarray]
    spacing_mm: float
    trunk: np.ndarray = field(repr=False)
    skin: np.ndarray = field(repr=False)

    def voxels(self, points_mm: np.ndarray) -> np.ndarray:
        """Voxel coordinates (N, 3) of places (N, 3): the linear guess, mended twice by the warp found there."""
        linear, offset = self.to_voxel[:, :3], self.to_voxel[:, 3]
        guess = points_mm @ linear.T + offset
        top = np.asarray(self.labels.shape) - 1
        for _ in range(2):
            at = np.clip(np.rint(guess).astype(int), 0, top)
            found = self.place_mm[:, at[:, 0], at[:, 1], at[:, 2]].T
            guess = at + (points_mm - found) @ linear.T
        return guess

    def blob(self, part: Blob, value: int, room: np.ndarray) -> None:
        centre, radii = np.asarray(part.centre), np.asarray(part.radii)
        reach = np.full(3, radii.max()) if part.turn_deg else radii
        corners = centre + np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]) * reach
        voxels = self.voxels(corners)
        low = np.maximum(np.floor(voxels.min(axis=0)).astype(int) - 3, 0)
        high = np.maximum(np.ceil(voxels.max(axis=0)).astype(int) + 4, 0)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        x, y, z = (self.place_mm[axis][box] - np.float32(centre[axis]) for axis in range(3))
        turn = np.radians(part.turn_deg)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        x, z = cos * x - sin * z, sin * x + cos * z
        total = sum(_power(v / np.float32(r)) for v, r in zip((x, y, z), radii, strict=True))
        labels = self.labels[box]
        labels[(total < 1) & (labels == 0) & room[box]] = value

    def tube(self, part: Tube, value: int, room: np.ndarray) -> None:
        balls = part.balls()
        radii = balls[:, 3] / self.spacing_mm
        for centre, radius in zip(self.voxels(balls[:, :3]), radii, strict=True):
            low = np.maximum(np.ceil(centre - radius).astype(int), 0)
            high = np.floor(centre + radius).astype(int) + 1
            if (high <= low).any() or (low >= self.labels.shape).any():
                continue
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            labels = self.labels[box]
            x, y, z = (np.arange(a, a + n) - c for a, n, c in zip(low, labels.shape, centre, strict=True))
            near = (x * x)[:, None, None] + (y * y)[:, None] + z * z <= radius * radius
            labels[near & (labels == 0) & room[box]] = value


def _power(v: np.ndarray) -> np.ndarray:
    """|v| ** 2.5, faster than the general power."""
    return v * v * np.sqrt(np.abs(v))


def _oval(table: np.ndarray, place: np.ndarray, add_mm: float = 0.0) -> np.ndarray:
    """Below 1 inside the oval tube that `table` describes by height, widened by `add_mm`; (X, Y, Z)."""
    z = np.arange(-400, 800, dtype=np.float32)
    width, depth, middle = (np.interp(z, table[:, 0], table[:, i]).astype(np.float32) for i in (1, 2, 3))
    index = np.clip(place[2] + 400, 0, len(z) - 1).astype(np.int16)
    return _power(place[0] / (width + add_mm)[index]) + _power((place[1] - middle[index]) / (depth + add_mm)[index])


def _chest_wall(angle: float, z: float) -> tuple[float, float]:
    """(x, y) in mm on the chest wall of the patient's right at height z: angle 0 behind the spine, pi in front."""
    width, depth, middle = (float(np.interp(z, _CAVITY[:, 0], _CAVITY[:, i])) for i in (1, 2, 3))
    width, depth = max(width, 34) + 7, max(depth, 28) + 7
    sin, cos = np.sin(angle), np.cos(angle)
    return width * abs(sin) ** 0.8, middle - depth * float(np.sign(cos)) * abs(cos) ** 0.8


def _canvas(rng: np.random.Generator, region: str, shape: tuple[int, int, int], spacing_mm: float) -> _Canvas:
    """The field of one patient: size, build, posture and a smooth warp drawn from `rng`."""
    girth = float(rng.uniform(0.9, 1.08))
    size = np.array([girth, girth * float(rng.uniform(0.96, 1.08)), float(rng.uniform(0.94, 1.06))])
    tilt = np.radians(rng.normal(0, 1.8, 3))
    rotation = np.eye(3)
    for axis, angle in enumerate(tilt):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[i, j], [i, j]], step[i, j], step[j, i] = np.cos(angle), -np.sin(angle), np.sin(angle)
        rotation = rotation @ step
    linear = np.diag(1 / size) @ rotation * spacing_mm
    centre = (np.asarray(shape) - 1) / 2
    half_height = spacing_mm * shape[2] / 2 / size[2]
    z = _CHEST_TOP_MM - half_height if region == "chest" else _BOTTOM_MM[region] + half_height
    middle = np.array([0.0, 36.0, z]) + rng.normal(0, (4, 4, 6))
    place = np.empty((3, *shape), np.float32)
    grids = [np.arange(n, dtype=np.float32) - np.float32(c) for n, c in zip(shape, centre, strict=True)]
    for axis in range(3):
        steps = [np.float32(linear[axis, k]) * grids[k] for k in range(3)]
        place[axis] = steps[0][:, None, None] + steps[1][:, None] + steps[2]
        place[axis] += _smooth_noise(rng, shape, spacing_mm) + np.float32(middle[axis])
    inverse = np.linalg.inv(linear)
    to_voxel = np.column_stack([inverse, centre - inverse @ middle])
    fat_mm = float(rng.uniform(6, 32))
    trunk, skin = _oval(_TRUNK, place) < 1, _oval(_TRUNK, place, fat_mm)
    rooms = _rooms(place, trunk)
    return _Canvas(place, to_voxel, np.zeros(shape, np.uint8), rooms, spacing_mm, trunk, skin)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: float) -> np.ndarray:
    """A displacement of about 3 mm that changes over some 90 mm, (X, Y, Z) float32."""
    nodes = [max(4, round(n * spacing_mm / 76)) for n in shape]
    field_mm = rng.normal(0, 4.5, nodes).astype(np.float32)
    for axis, n in enumerate(shape):
        basis = ndimage.zoom(
            np.eye(nodes[axis], dtype=np.float32), (n / nodes[axis], 1), order=3, grid_mode=True, mode="nearest"
        )
        field_mm = np.moveaxis(np.tensordot(basis, field_mm, axes=(1, axis)), 0, axis)
    return field_mm


def _rooms(place: np.ndarray, trunk: np.ndarray) -> dict[str, np.ndarray]:
    """Where parts may lie: the trunk, the chest above the diaphragm, the belly below it, and the lungs' part."""
    x, y, z = place
    cavity = (_oval(_CAVITY, place) < 1) & trunk
    aside = np.abs(x)
    dome = np.where(x > 0, np.float32(264), np.float32(254)) - np.float32(14) * np.exp(-((aside / 28) ** 2))
    dome -= 44 * np.square(np.maximum(aside - 62, 0) / 70) + np.square((y - 62) / 96) * np.where(y < 62, 48, 30)
    above = z - dome
    gap = np.where((y > 96) & (z > 330), np.float32(7), np.float32(25))
    notch = (x < 0) & (x > -58) & (y > 96) & (z < 325)  # the heart touches the chest wall on the left
    lung = cavity & (above > 2) & (aside > gap) & ~notch & (_oval(_CAVITY, place, -5) < 1)
    return {"body": trunk, "belly": cavity & (above < -3), "chest": cavity & (above > 0), "lung": lung}


def _ct(canvas: _Canvas, rng: np.random.Generator) -> np.ndarray:
    """int16 HU: fat, muscle and skin first, then organs of one contrast phase, gas, bone rinds, blur and noise."""
    labels, place = canvas.labels, canvas.place_mm
    ct = np.full(labels.shape, -1000, np.float32)
    ct[canvas.skin < 1.06] = 20
    ct[canvas.skin < 1] = -100
    ct[canvas.trunk] = 55
    ct[canvas.rooms["belly"]] = -95
    ct[(canvas.rooms["chest"]) & (place[2] > 200)] = -70
    phase = int(rng.integers(3))
    values = np.zeros(256, np.float32)
    for name, hu in _HU.items():
        values[TORSO.ids[name]] = hu + (0, *_CONTRAST_HU.get(name, (0, 0)))[phase] + rng.normal(0, 4)
    for name, mark in _MARKS.items():
        values[mark] = _MARK_HU[name]
    painted = labels > 0
    ct[painted] = values[labels[painted]]
    _fill_gas(ct, canvas, rng)
    bone = np.isin(labels, (TORSO.ids["vertebrae"], _MARKS["bone"]))
    ct[bone & ~ndimage.binary_erosion(bone)] += 220
    texture = rng.standard_normal(labels.shape, dtype=np.float32)
    lung = labels == TORSO.ids["lung"]
    ct[lung] += np.maximum(texture[lung] - 1.2, 0) * 260  # vessels
    ct = ndimage.gaussian_filter(ct, 0.5, truncate=2)
    grain = ndimage.uniform_filter(rng.standard_normal(labels.shape, dtype=np.float32), 2)
    ct += np.float32(rng.uniform(18, 40)) * grain
    return np.clip(np.rint(ct), -1024, 1976).astype(np.int16)


def _fill_gas(ct: np.ndarray, canvas: _Canvas, rng: np.random.Generator) -> None:
    """Gas collects in front in the stomach, and in places along the colon and a little of the small bowel."""
    inner_noise = _smooth_noise(rng, canvas.labels.shape, canvas.spacing_mm / 2) / 5
    for name, share in (("stomach", 0.25), ("colon", 0.45), ("small bowel", 0.06)):
        hollow = canvas.labels == TORSO.ids[name]
        lumen = ndimage.binary_erosion(hollow)
        if not lumen.any():
            continue
        score = canvas.place_mm[1] / 60 + (inner_noise if name != "stomach" else 0)
        level = np.quantile(score[lumen], 1 - share * rng.uniform(0.5, 1.2))
        ct[lumen & (score > level)] = -880
