"""Which of our classes becomes which label of the user's data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidegen_data import Anatomy
from guidegen_data.label_maps import PUBLIC, Projection, normalised, vocabulary
from guidegen_data.label_maps.projection import Source
from guidegen_nnunet.folders import NnUNetError, read_json

LabelMap = Mapping[str, str | int | None]
_UNTAUGHT = ("background", "ignore")


@dataclass(frozen=True)
class DatasetLabels:
    """Our label maps as labels of a data set, and the labels of it that no synthetic case has, or only a part of.

    `ignore` is the id that nnU-Net leaves out of its loss, where the data set has one.
    """

    projection: Projection
    never_synthetic: tuple[str, ...]
    ignore: int | None = None

    @property
    def mapped(self) -> dict[str, int]:
        """Our name -> their id, 0 for what was dropped: as a label map it gives this projection again."""
        return self.projection.named

    def __call__(self, label_map: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
        """Their label map (X, Y, Z) of ours, RAS+."""
        return self.projection(label_map, spacing_mm)

    def notices(self) -> list[str]:
        """What the user must know before training: classes that are lost and labels that synthetic cases lack."""
        said = []
        if self.projection.dropped:
            said.append(
                f"synthetic classes without a label here become background: {', '.join(self.projection.dropped)}"
            )
        if about_lesions := self._about_lesions():
            said.append(about_lesions)
        if self.never_synthetic:
            said.append(
                f"labels that no synthetic case has in full: {', '.join(self.never_synthetic)}; where such a structure "
                f"shows in a synthetic CT the network is taught background"
            )
        return said

    def _about_lesions(self) -> str | None:
        """What becomes of lesions without a label of their own, and of the organs under them."""
        anatomy, lesion = self.projection.anatomy, self.projection.anatomy.lesion_class
        is_named = any(s.is_tumour and s.name in self.mapped for s in vocabulary(anatomy).values())
        if anatomy.frame is None:
            return None if is_named else f"no label here is of a {lesion}: each counts as the organ it grew in"
        label = int(self.projection.tumour_table[0, anatomy.ids[anatomy.frame.host]])
        if is_named and label not in (0, self.ignore):
            return None
        what = {0: "background", self.ignore: "'ignore'"}.get(label, anatomy.frame.host)
        return (
            f"a {lesion} takes the voxels of the organs under it, which show in the CT all the same: here they become "
            f"{what}; train on cases without one, made by guidegen-shard --sampling organs"
        )


def parse_label_map(text: str) -> dict[str, str | int | None]:
    """A label map from a JSON file, the name of a public label set, or `class=label,...` (empty label: drop it)."""
    if text in PUBLIC:
        wanted = PUBLIC[text]
        # What the set splits has no label of its own; an nnU-Net data set may have one to be ignored.
        return {**wanted.sources, **dict.fromkeys(wanted.finer, "ignore")}
    if Path(text).suffix == ".json":
        content = read_json(Path(text))
        if not isinstance(content, dict) or not all(isinstance(v, str | int | None) for v in content.values()):
            raise NnUNetError(f"expected {text} to map class names to label names or ids, got something else; mend it.")
        return content
    result: dict[str, str | int | None] = {}
    for entry in text.split(","):
        name, separator, label = (part.strip() for part in entry.partition("="))
        if not separator or not name:
            raise NnUNetError(
                f"expected 'class=label' in the label map, got {entry!r}; separate entries by commas, or name a JSON "
                f"file or one of {', '.join(PUBLIC)}."
            )
        if name in result:
            raise NnUNetError(f"the label map names {name!r} twice; a class can become one label only.")
        result[name] = int(label) if label.isdigit() else label or None
    return result


def project(anatomy: Anatomy, labels: Mapping[str, Any], label_map: LabelMap) -> DatasetLabels:
    """Our classes onto `labels` of a dataset.json.

    A class (or side, or the tumours of an organ) goes where `label_map` says (None: nowhere), else to the label of the
    same name; target volumes, under which nobody knows what lies, to nnU-Net's `ignore`. GuideGenError for a name that
    is not there, for a label of several ids where one is needed, for two classes on one label unless both are named,
    and when nothing is shared.
    """
    targets = _targets(labels)
    known = vocabulary(anatomy)
    explicit = {name: _resolve(label, targets, name) for name, label in label_map.items()}
    taken = [known[normalised(name)] for name in label_map if normalised(name) in known]
    wanted: dict[str, int | None] = dict(explicit)
    for name, source in known.items():
        if name in targets and not any(source.overlaps(other) for other in taken):
            wanted[source.name] = targets[name]
            taken.append(source)
    _refuse_regions(labels, {name: s for name, s in known.items() if not any(s.overlaps(other) for other in taken)})
    if not any(wanted.values()):
        raise NnUNetError(
            f"the synthetic cases share no label with the data set: classes {_quoted(anatomy.ids)}, labels "
            f"{_quoted(labels)}; say with --label-map which class becomes which label."
        )
    ignore = labels.get("ignore")
    is_target = anatomy.frame is not None and not any(source.is_tumour for source in taken)
    ignored = {anatomy.lesion_class: ignore} if is_target and ignore is not None else {}
    projection = Projection.from_map(anatomy, wanted | ignored)
    _refuse_collisions(wanted, {normalised(n) for n in explicit}, labels)
    reached = set(projection.ids.values())
    never = tuple(n for n, v in labels.items() if n not in _UNTAUGHT and not set(_ids(v)) <= reached)
    return DatasetLabels(projection, never, ignore)


def _quoted(names: Mapping[str, Any]) -> str:
    return ", ".join(repr(n) for n in names if n != "background")


def _ids(value: Any) -> list[int]:
    return [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]


def _targets(labels: Mapping[str, Any]) -> dict[str, int]:
    """Normalised name -> id, for labels that are one id; a region of several ids has none of its own."""
    counts = Counter(normalised(n) for n in labels)
    double = [n for n in labels if counts[normalised(n)] > 1]
    if double:
        raise NnUNetError(f"labels {double} of the data set differ in case or spaces only; rename one of them.")
    targets = {normalised(n): _ids(v)[0] for n, v in labels.items() if len(_ids(v)) == 1}
    return targets | {str(i): i for v in labels.values() for i in _ids(v)}


def _refuse_regions(labels: Mapping[str, Any], untold: Mapping[str, Source]) -> None:
    """NnUNetError when a class without a label has the name of a region, which would become background unseen."""
    for label, value in labels.items():
        if len(_ids(value)) > 1 and (source := untold.get(normalised(label))):
            raise NnUNetError(
                f"label {label!r} of the data set is a region of the ids {_ids(value)}, and which of them our class "
                f"{source.name!r} is, nobody told; say which id, such as --label-map '{source.name}={_ids(value)[0]}'."
            )


def _resolve(label: str | int | None, targets: Mapping[str, int], name: str) -> int:
    if label is None:
        return 0
    key = normalised(str(label))
    if key not in targets:
        raise NnUNetError(
            f"the label map sends {name!r} to {label!r}, which is no single label of the data set; it has "
            f"{', '.join(repr(t) for t in targets)}."
        )
    return targets[key]


def _refuse_collisions(wanted: Mapping[str, int | None], explicit: set[str], labels: Mapping[str, Any]) -> None:
    for target in {label for label in wanted.values() if label}:
        sharing = [n for n, t in wanted.items() if t == target]
        if len(sharing) > 1 and not all(normalised(n) in explicit for n in sharing):
            label = next((n for n, v in labels.items() if _ids(v) == [target]), str(target))
            raise NnUNetError(
                f"classes {sharing} would all become label {label!r}; name every one of them in the label map if they "
                f"shall be merged."
            )
