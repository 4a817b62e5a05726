"""Where in a label map a named site lies, and at which site a lesion lies, by the patient's own landmarks.

Both questions are answered from one map, in which every lesion has been given back to the organ it grew in, so that a
lesion put inside `site_mask(organ, site)` is found again by `site_of`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import TORSO, Anatomy, FindingOrgan
from guidegen_data.errors import AnatomyError
from guidegen_data.sites_frame import frame_site_mask, frame_site_of

Spacing = tuple[float, float, float]

# Distances are in mm. They were chosen on adult label maps with lobes, vertebra levels and hip bones marked.
_CANTLIE_FRONT, _CANTLIE_BACK = 0.6, 0.38  # of the liver's width from its left tip, when the landmarks are missing
_CANTLIE_RANGE = (0.25, 0.7)
_LUNG_HEIGHT = 1.15  # of its depth: the least height of a whole lung, for one cut off by the top of the field
_FISSURE_BACK, _FISSURE_FALL = 0.95, 0.95  # height of the oblique fissure at the lung's back, and its fall to the front
_ASIDE_MM = 45.0  # ascending and descending colon lie farther from the midline than this
_FAR_ASIDE = 0.8  # of the colon's reach to that side: this far out it is not the transverse colon
_FRONT = 0.6  # of the way from the spine to the front of the belly: the transverse colon lies before this
_ILIAC_MM = 60.0  # height of the iliac crest above the lower end of S1: below it no transverse colon at the sides
_PELVIC_BRIM_MM = 35.0  # the same for the height where the descending colon turns into the sigmoid
_RECTUM_MM, _LOW_RECTUM_MM = 20.0, 75.0  # below the lower end of S1: the rectum's start, and where nothing else is left
_SACRAL = 0.35  # of the way from the spine to the front: the upper rectum lies behind this
_CUT_MM = 8.0  # a spine that ends nearer to the bottom of the field is cut off there
_RECTUM_ASIDE_MM = 40.0


def is_cut(mask: np.ndarray) -> bool:
    """Whether a mask (X, Y, Z) touches the border of the field: what it shows may go on outside."""
    return any(bool(mask.take(end, axis=axis).any()) for axis in range(3) for end in (0, -1))


def site_mask(
    label_map: np.ndarray, spacing_mm: Spacing, organ: FindingOrgan | str, site: str, anatomy: Anatomy = TORSO
) -> np.ndarray:
    """Voxels of an organ's class on the asked side and site, bool (X, Y, Z); RAS+, x grows to the patient's right.

    An empty site means the whole organ of its side. Voxels that a lesion has taken are left out. Raises AnatomyError
    for an organ or a site that the table does not have.
    """
    entry = anatomy.organ_of(organ) if isinstance(organ, str) else organ
    if site and site not in entry.sites:
        raise AnatomyError(
            f"the {entry.name} has the sites {', '.join(map(repr, entry.sites)) or 'none'}, not {site!r}."
        )
    if anatomy.frame is not None and entry.class_name == anatomy.frame.host:
        return frame_site_mask(label_map, spacing_mm, entry, site, anatomy)
    mask = label_map == anatomy.id_of(entry.class_name)
    if not mask.any() or not (entry.side or site):
        return mask
    body = _Body(without_lesions(label_map, anatomy), spacing_mm, anatomy)
    voxels = body.voxels(entry)
    if site:
        voxels = voxels[_sites(voxels, body, entry) == site]
    wanted = np.zeros_like(mask)
    wanted[tuple(voxels.T)] = True
    return mask & wanted


def site_of(
    lesion: np.ndarray, label_map: np.ndarray, spacing_mm: Spacing, anatomy: Anatomy = TORSO
) -> tuple[str, str]:
    """(organ, site) as a report names them for one lesion, bool (X, Y, Z): the host around it, then most of its voxels.

    The host is the most frequent class in the shell of one voxel, then two, around the lesion, among the classes in
    which a report may place one (thin organs weigh more); then the nearest such class. Raises AnatomyError when the
    lesion is empty or the map holds no such class.
    """
    if not lesion.any():
        raise AnatomyError("a lesion must hold at least one voxel to have a site, got an empty mask.")
    if anatomy.frame is not None:
        return frame_site_of(lesion, label_map, spacing_mm, anatomy)
    host = _host(lesion, label_map, anatomy)
    others = np.where(lesion & (label_map == anatomy.lesion_id), 0, label_map)
    restored = np.where(lesion, np.uint8(host), without_lesions(others, anatomy))
    body = _Body(restored, spacing_mm, anatomy)
    points = np.argwhere(lesion)
    entries = [o for o in anatomy.organs if o.sites and anatomy.ids[o.class_name] == host]
    aside = body.aside_mm(points)
    entry = max(entries, key=lambda o: int(_on_side(aside, o.side).sum()))
    voxels = body.voxels(entry)
    sites = _sites(voxels, body, entry)[lesion[tuple(voxels.T)]]
    names, counts = np.unique(sites, return_counts=True)
    return entry.name, str(names[counts.argmax()])


def right_of_midline_mm(label_map: np.ndarray, spacing_mm: Spacing, anatomy: Anatomy = TORSO) -> np.ndarray:
    """Distance in mm to the patient's right of the spine, per voxel column: (X, 1, Z), negative on the left.

    The midline is the mean x of the vertebrae, smoothed over 60 mm of height; without vertebrae, of all labels.
    """
    spine = label_map == anatomy.ids.get("vertebrae", -1)
    source = spine if np.count_nonzero(spine) > 200 else label_map > 0
    counts = source.sum(axis=1, dtype=np.int32).astype(np.float64)
    x = np.arange(label_map.shape[0], dtype=np.float64)
    # Odd, so that a slice counts those above it as much as those below it.
    kernel = np.ones(2 * min(round(30 / spacing_mm[2]), (label_map.shape[2] - 1) // 2) + 1)
    weight = np.convolve(counts.sum(axis=0), kernel, "same")
    moment = np.convolve((counts * x[:, None]).sum(axis=0), kernel, "same")
    known = weight > 0
    if known.any():
        middle = np.interp(np.arange(len(weight)), np.flatnonzero(known), moment[known] / weight[known])
    else:
        middle = np.full(label_map.shape[2], (label_map.shape[0] - 1) / 2)
    return ((x[:, None] - middle[None]) * spacing_mm[0])[:, None, :]


@dataclass(frozen=True)
class _Body:
    """A label map without lesions, and what the rules ask of it."""

    labels: np.ndarray
    spacing_mm: Spacing
    anatomy: Anatomy

    def voxels(self, entry: FindingOrgan) -> np.ndarray:
        """Indices (N, 3) of the organ's class on its side."""
        voxels = self.points(entry.class_name)
        return voxels[_on_side(self.aside_mm(voxels), entry.side)] if entry.side else voxels

    def points(self, class_name: str) -> np.ndarray:
        """Indices (N, 3) of a class."""
        return np.stack(np.nonzero(self.labels == self.anatomy.ids[class_name]), axis=1)

    def aside_mm(self, voxels: np.ndarray) -> np.ndarray:
        """Distance of voxels (N, 3) to the right of the midline (N,)."""
        return right_of_midline_mm(self.labels, self.spacing_mm, self.anatomy)[voxels[:, 0], 0, voxels[:, 2]]


def _on_side(aside_mm: np.ndarray, side: str) -> np.ndarray:
    return {"": np.ones(len(aside_mm), bool), "right": aside_mm >= 0, "left": aside_mm < 0}[side]


def _host(lesion: np.ndarray, label_map: np.ndarray, anatomy: Anatomy) -> int:
    """Label id of the class a lesion grew in: most frequent in the shell of 1, then 2 voxels, else the nearest."""
    hosts = np.zeros(256, bool)
    hosts[[anatomy.ids[o.class_name] for o in anatomy.organs if o.sites]] = True
    box = ndimage.find_objects(lesion.astype(np.uint8))[0]
    for width in (1, 2):
        region = tuple(slice(max(0, b.start - width), b.stop + width) for b in box)
        inside, labels = lesion[region], label_map[region]
        shell = labels[ndimage.binary_dilation(inside, iterations=width) & ~inside]
        counts = np.bincount(shell[hosts[shell]], minlength=anatomy.num_classes)
        if counts.any():
            # A bulky neighbour covers more of a small lesion than the thin organ it grew in: an adrenal beside a liver.
            return int((counts * [c.volume_ml[1] ** -0.25 for c in anatomy.classes]).argmax())
    voxels = np.stack(np.nonzero(hosts[label_map] & ~lesion), axis=1)
    if not len(voxels):
        raise AnatomyError(f"no organ that may hold a lesion is in this {anatomy.name} label map; it has no site.")
    centre = np.argwhere(lesion).mean(axis=0)
    return int(label_map[tuple(voxels[((voxels - centre) ** 2).sum(axis=1).argmin()])])


def without_lesions(label_map: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """The map with each lesion given back to its host; a lesion without one becomes background."""
    lesions = label_map == anatomy.lesion_id
    if not lesions.any():
        return label_map
    out = label_map.copy()
    pieces, _ = ndimage.label(lesions)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        near = tuple(slice(max(0, b.start - 2), b.stop + 2) for b in box)
        piece = pieces[near] == number
        try:
            out[near][piece] = _host(piece, label_map[near], anatomy)
        except AnatomyError:
            out[near][piece] = 0
    return out


def _sites(voxels: np.ndarray, body: _Body, entry: FindingOrgan) -> np.ndarray:
    """The site of each voxel (N, 3) of an organ, as strings (N,)."""
    if len(entry.sites) < 2:
        return np.full(len(voxels), entry.sites[0] if entry.sites else "", dtype="U16")
    return _RULES[entry.class_name](voxels, body)


def _liver(voxels: np.ndarray, body: _Body) -> np.ndarray:
    """By Cantlie's plane: upright, through the vena cava behind and the gallbladder in front."""
    cava, gallbladder = body.points("inferior vena cava"), body.points("gallbladder")
    x, y, z = voxels.T
    low, high = np.percentile(x, (1, 99))
    back, front = np.percentile(y, (20, 80))
    x_back, x_front = low + _CANTLIE_BACK * (high - low), low + _CANTLIE_FRONT * (high - low)
    if len(cava := cava[(cava[:, 2] >= np.median(z)) & (cava[:, 2] <= z.max())]):
        x_back, back = cava[:, 0].mean(), cava[:, 1].mean()
    if len(gallbladder):
        x_front, front = gallbladder[:, 0].mean(), gallbladder[:, 1].mean()
    slope = (x_front - x_back) / max(front - back, 30 / body.spacing_mm[1])
    narrow, wide = (low + share * (high - low) for share in _CANTLIE_RANGE)
    plane = np.clip(x_back + slope * (y - back), narrow, wide)
    return np.where(x > plane, "right lobe", "left lobe")


def _pancreas(voxels: np.ndarray, body: _Body) -> np.ndarray:
    """By thirds of its extent from the patient's right to the left."""
    low, high = np.percentile(voxels[:, 0], (0.5, 99.5))
    along = (voxels[:, 0] - low) / max(high - low, 1)
    return np.select([along > 2 / 3, along > 1 / 3], ["head", "body"], "tail")


def _lung(voxels: np.ndarray, body: _Body) -> np.ndarray:
    """By the oblique fissure, a plane that falls from the back to the front; the middle lobe counts as upper lobe."""
    scale = np.asarray(body.spacing_mm)[1:]
    low, high = (np.percentile(voxels[:, 1:], share, axis=0) * scale for share in (1, 99))
    depth, height = np.maximum(high - low, 1)
    if voxels[:, 2].max() >= body.labels.shape[2] - 1:
        height = max(height, _LUNG_HEIGHT * depth)
    forward = (voxels[:, 1] * scale[0] - low[0]) / depth
    up = (voxels[:, 2] * scale[1] - low[1]) / height
    return np.where(up > _FISSURE_BACK - _FISSURE_FALL * forward, "upper lobe", "lower lobe")


def _colon(voxels: np.ndarray, body: _Body) -> np.ndarray:
    """By the frame it makes: sides, front and pelvis, measured from the spine and the front of the belly."""
    aside = body.aside_mm(voxels)
    y, z = voxels[:, 1] * body.spacing_mm[1], voxels[:, 2] * body.spacing_mm[2]
    spine = body.points("vertebrae")
    y_spine = (spine[:, 1].mean() if len(spine) else voxels[:, 1].min()) * body.spacing_mm[1]
    forward = (y - y_spine) / max(np.percentile(y, 98) - y_spine, 1)
    # S1 is the last vertebra in the map: where the spine ends inside the field, the pelvis is in view.
    lowest = spine[:, 2].min() * body.spacing_mm[2] if len(spine) else 0.0
    above = z - lowest if lowest > _CUT_MM else np.full(len(z), np.inf)
    right, left = aside > _ASIDE_MM, aside < -_ASIDE_MM
    reach = np.where(right, max(aside.max(), 1), max(-aside.min(), 1))
    transverse = (forward > _FRONT) & (above > _ILIAC_MM) & (np.abs(aside) < _FAR_ASIDE * reach)
    rectum = (above < np.where(forward < _SACRAL, -_RECTUM_MM, -_LOW_RECTUM_MM)) & (np.abs(aside) < _RECTUM_ASIDE_MM)
    drooping = ~left & (forward > _FRONT)  # a long transverse colon hangs down at the front, in the middle
    sigmoid = ~right & (above < np.where(drooping, 0.0, _PELVIC_BRIM_MM))
    return np.select(
        [rectum, sigmoid, transverse | ~(right | left), right],
        ["rectum", "sigmoid", "transverse", "ascending"],
        "descending",
    )


_RULES = {"liver": _liver, "pancreas": _pancreas, "lung": _lung, "colon": _colon}
