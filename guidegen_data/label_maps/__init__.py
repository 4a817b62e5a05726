"""Our label maps onto other people's label sets: by a map of names, or by the name of a public set."""

from guidegen_data.label_maps.projection import LabelMap, Projection, normalised, vocabulary
from guidegen_data.label_maps.public import PUBLIC, LabelSet, label_set

__all__ = ["PUBLIC", "LabelMap", "LabelSet", "Projection", "label_set", "normalised", "vocabulary"]
