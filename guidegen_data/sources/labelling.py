"""Which organs a data set labels at all: that a label map lacks another one does not say that the patient does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.errors import SourceError
from guidegen_data.sources.layouts import LabelNames, SourceCase
from guidegen_data.sources.organ_names import organs_of_names
from guidegen_data.sources.volumes import read_volume


def organs_named(cases: Sequence[SourceCase], names: LabelNames, anatomy: Anatomy) -> set[str]:
    """Report names of the organs that the data set's label names and mask files are of, see `organs_of_names`."""
    said = {mask for case in cases for mask in case.masks}
    if any(case.label for case in cases):
        said |= set((names.ids or {}).values())
    return organs_of_names({names.renamed.get(name, name) for name in said}, anatomy)


def own_ids(case: SourceCase) -> set[int]:
    """The ids in a case's label file; none where it has none that can be read, which is told when it is prepared."""
    if case.label is None:
        return set()
    try:
        array = read_volume(case.label).array
    except SourceError:
        return set()
    return set(np.unique(np.rint(array).astype(np.int64)).tolist())


def organs_of_ids(seen: Collection[int], anatomy: Anatomy) -> set[str]:
    """Report names of the organs that one of the table's ids stands for."""
    return {organ.name for organ in anatomy.organs if anatomy.id_of(organ.class_name) in seen}
