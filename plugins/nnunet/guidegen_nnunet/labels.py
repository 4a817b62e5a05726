"""Which of our classes becomes which label of the user's data set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidegen_nnunet.folders import NnUNetError, read_json

LabelMap = Mapping[str, str | int | None]


@dataclass(frozen=True)
class Projection:
    """Our label ids to theirs. `table` (256,) holds their id for each of ours, 0 for a class that is dropped."""

    table: np.ndarray
    mapped: dict[str, int]
    dropped: tuple[str, ...]
    never_synthetic: tuple[str, ...]

    def notices(self) -> list[str]:
        """What the user must know before training: classes that are lost and labels that synthetic cases lack."""
        said = []
        if self.dropped:
            said.append(f"synthetic classes without a label here become background: {', '.join(self.dropped)}")
        if self.never_synthetic:
            said.append(
                f"labels that no synthetic case has: {', '.join(self.never_synthetic)}; where such a structure shows "
                f"in a synthetic CT the network is taught background"
            )
        return said


def normalised(name: str) -> str:
    """Names are equal when they differ in case, spaces, underscores and hyphens only."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def parse_label_map(text: str) -> dict[str, str | int | None]:
    """A label map from the name of a JSON file or from `class=label,class=label`; an empty label drops the class."""
    if Path(text).suffix == ".json":
        content = read_json(Path(text))
        if not isinstance(content, dict) or not all(isinstance(v, str | int | None) for v in content.values()):
            raise NnUNetError(f"expected {text} to map class names to label names or ids, got something else; mend it.")
        return content
    result: dict[str, str | int | None] = {}
    for entry in text.split(","):
        name, separator, label = (part.strip() for part in entry.partition("="))
        if not separator or not name:
            raise NnUNetError(f"expected 'class=label' in the label map, got {entry!r}; separate entries by commas.")
        if name in result:
            raise NnUNetError(f"the label map names {name!r} twice; a class can become one label only.")
        result[name] = int(label) if label.isdigit() else label or None
    return result


def project(classes: Mapping[str, int], labels: Mapping[str, Any], label_map: LabelMap) -> Projection:
    """Our `classes` (name -> id) onto `labels` of a dataset.json.

    A class goes where `label_map` says (None or background: nowhere), else to the label of the same name. NnUNetError
    for a name that is not there, for two classes on one label unless both are named, and when nothing is shared.
    """
    targets = _targets(labels)
    wanted = _by_normalised_name(label_map, classes)
    mapped: dict[str, int] = {}
    for name in classes:
        target = _resolve(wanted[name], targets, name) if name in wanted else targets.get(normalised(name), 0)
        if target:
            mapped[name] = target
    _refuse_collisions(mapped, wanted, labels)
    if not mapped:
        raise NnUNetError(
            f"the synthetic cases share no label with the data set: classes {_quoted(classes)}, labels "
            f"{_quoted(labels)}; say with --label-map which class becomes which label."
        )
    table = np.zeros(256, np.uint8 if max(mapped.values()) < 256 else np.uint16)
    for name, target in mapped.items():
        table[classes[name]] = target
    reached = set(mapped.values())
    never = [n for n, v in labels.items() if n not in ("background", "ignore") and not reached & set(_ids(v))]
    dropped = [n for n, i in classes.items() if i and n not in mapped]
    return Projection(table, mapped, tuple(dropped), tuple(never))


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


def _by_normalised_name(label_map: LabelMap, classes: Mapping[str, int]) -> dict[str, str | int | None]:
    ours = {normalised(n): n for n in classes}
    unknown = [n for n in label_map if normalised(n) not in ours]
    if unknown:
        raise NnUNetError(
            f"the label map names unknown classes {unknown}; the synthetic cases have {_quoted(classes)}."
        )
    result = {ours[normalised(n)]: v for n, v in label_map.items()}
    if len(result) < len(label_map):
        raise NnUNetError("the label map names a class twice; a class can become one label only.")
    return result


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


def _refuse_collisions(mapped: Mapping[str, int], wanted: LabelMap, labels: Mapping[str, Any]) -> None:
    for target in set(mapped.values()):
        sharing = [n for n, t in mapped.items() if t == target]
        if len(sharing) > 1 and not all(n in wanted for n in sharing):
            label = next((n for n, v in labels.items() if _ids(v) == [target]), str(target))
            raise NnUNetError(
                f"classes {sharing} would all become label {label!r}; name every one of them in the label map if they "
                f"shall be merged."
            )
