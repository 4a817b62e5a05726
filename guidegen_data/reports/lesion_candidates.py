"""One lesion in the making: what the mentions of it have told so far."""

from __future__ import annotations

from dataclasses import dataclass

from guidegen_data.anatomy import FindingOrgan
from guidegen_data.reports.lesion_rules import LesionMention


@dataclass
class Candidate:
    """A lesion of a known organ; `site` and `size_mm` are None while no sentence has stated them.

    `chosen` says which side was taken for an organ named without one; any stated side overrules it.
    """

    organ: FindingOrgan
    site: str | None
    size_mm: float | None
    attenuation: str
    mention: LesionMention
    chosen: str = ""

    def agrees(self, other: Candidate) -> bool:
        """Whether both can be one lesion: nothing that both state differs (sizes by 3 mm or a fifth at most)."""
        loose_side = (self.chosen or other.chosen) and self.organ.class_name == other.organ.class_name
        if (self.organ != other.organ and not loose_side) or (self.site and other.site and self.site != other.site):
            return False
        if self.attenuation and other.attenuation and self.attenuation != other.attenuation:
            return False
        if self.size_mm is None or other.size_mm is None:
            return True
        return abs(self.size_mm - other.size_mm) <= max(3.0, 0.2 * max(self.size_mm, other.size_mm))

    def distance(self, other: Candidate) -> float:
        """How far two agreeing candidates are from saying the same, for matching the closest first."""
        apart = 1.0 if self.size_mm is None or other.size_mm is None else abs(self.size_mm - other.size_mm)
        return apart + 0.5 * (self.site != other.site) + 0.25 * (self.attenuation != other.attenuation)

    def absorb(self, other: Candidate) -> None:
        """Take from another mention of the same lesion what this one does not state."""
        if self.chosen and not other.chosen:
            self.organ, self.chosen = other.organ, ""
        self.site = self.site or other.site
        self.size_mm = self.size_mm if self.size_mm is not None else other.size_mm
        self.attenuation = self.attenuation or other.attenuation

    @property
    def is_empty(self) -> bool:
        """'Known gastric cancer.': a disease is named and nothing is told of a lesion that could be drawn."""
        side = self.organ.side and not self.chosen
        told = self.size_mm is not None or self.site or self.attenuation or side or self.mention.size_word
        return self.mention.diagnosis and not told
