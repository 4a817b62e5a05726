"""What a report says, as data: region, phase, patient, organ statuses, lesions. The schema every stage shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guidegen_data.anatomy import ATTENUATIONS, HABITUS, PHASES, STATUSES, TORSO, Anatomy, anatomy_named
from guidegen_data.errors import FindingsError

SEXES = ("female", "male")
MIN_LESION_MM, MAX_LESION_MM = 6.0, 120.0
MAX_LESIONS = 5


@dataclass(frozen=True)
class Lesion:
    """One mass: the organ as a report names it, the site within it ('' if the organ has no named parts), its longest
    diameter in mm, and its attenuation against the organ around it ('' if not stated)."""

    organ: str
    site: str
    size_mm: float
    attenuation: str = ""


@dataclass(frozen=True)
class Findings:
    """Everything the two stages are told about a case; '' or None is 'not stated'.

    `organs` maps report names (``anatomy.organ``) to a status; what is not listed is normal. Raises FindingsError when
    made with something the anatomy does not know or with parts that contradict each other.
    """

    region: str = "abdomen and pelvis"
    phase: str = ""
    sex: str = ""
    age_decade: int | None = None
    habitus: str = ""
    organs: Mapping[str, str] = field(default_factory=dict)
    lesions: tuple[Lesion, ...] = ()
    anatomy_name: str = "torso"

    def __post_init__(self) -> None:
        object.__setattr__(self, "organs", dict(sorted(self.organs.items())))
        object.__setattr__(self, "lesions", tuple(self.lesions))
        table = anatomy_named(self.anatomy_name)
        _one_of("region", self.region, table.regions)
        _one_of("phase", self.phase, ("", *PHASES))
        _one_of("sex", self.sex, ("", *SEXES))
        _one_of("habitus", self.habitus, ("", *HABITUS))
        if self.age_decade is not None and self.age_decade not in range(0, 110, 10):
            raise FindingsError(f"age_decade must be a decade 0, 10, ... 100, got {self.age_decade!r}.")
        for organ, status in self.organs.items():
            _one_of(f"status of {organ}", status, table.organ_of(organ).statuses)
        if len(self.lesions) > MAX_LESIONS:
            raise FindingsError(f"at most {MAX_LESIONS} lesions a case, got {len(self.lesions)}; name the largest.")
        for lesion in self.lesions:
            self._check_lesion(lesion, table)

    def _check_lesion(self, lesion: Lesion, table: Anatomy) -> None:
        organ = table.organ_of(lesion.organ)
        if not organ.sites:
            hosts = ", ".join(o.name for o in table.organs if o.sites)
            raise FindingsError(f"a lesion of the {lesion.organ} is not in this model's vocabulary; hosts: {hosts}.")
        _one_of(f"site of a {lesion.organ} lesion", lesion.site, organ.sites)
        _one_of("attenuation", lesion.attenuation, ("", *ATTENUATIONS))
        if not MIN_LESION_MM <= lesion.size_mm <= MAX_LESION_MM:
            raise FindingsError(
                f"lesion size must be {MIN_LESION_MM:g} to {MAX_LESION_MM:g} mm, got {lesion.size_mm:g} mm "
                f"in the {lesion.organ}."
            )
        if self.organs.get(lesion.organ) == "absent":
            raise FindingsError(f"the {lesion.organ} is said to be absent and to hold a lesion; drop one of the two.")
        if lesion.organ not in table.region_organs[self.region]:
            raise FindingsError(
                f"a lesion of the {lesion.organ} lies outside the field of a {self.region} scan; change the region."
            )

    @property
    def anatomy(self) -> Anatomy:
        return anatomy_named(self.anatomy_name)

    def status(self, organ: str) -> str:
        """Status of an organ by its report name; 'normal' when nothing is stated."""
        self.anatomy.organ_of(organ)
        return self.organs.get(organ, "normal")

    def organs_shown(self) -> frozenset[str]:
        """Report names of the organs that a scan of the region shows and nobody said to be absent."""
        shown = self.anatomy.region_organs.get(self.region, frozenset())
        return shown - {organ for organ, status in self.organs.items() if status == "absent"}

    def sized(self) -> dict[str, str]:
        """'enlarged' or 'small' of the organs said to be so whose usual sizes the label table tells."""
        usual = self.anatomy.size_ml
        return {o: status for o, status in self.organs.items() if status in ("enlarged", "small") and o in usual}

    def prompt(self) -> str:
        """The one canonical sentence form both stages are conditioned on, whatever words the report used."""
        parts = [f"CT {self.region}", self.phase or "phase not stated"]
        if self.sex or self.age_decade is not None:
            age = f"{self.age_decade}s" if self.age_decade is not None else ""
            parts.append(" ".join(filter(None, (self.sex, age))))
        if self.habitus:
            parts.append(f"{self.habitus} habitus")
        parts += [f"{organ} {status}" for organ, status in self.organs.items() if status != "normal"]
        for lesion in self.lesions:
            where = " ".join(filter(None, (lesion.organ, lesion.site)))
            parts.append(f"{lesion.attenuation} tumour {lesion.size_mm:.0f} mm in {where}".strip())
        if not self.lesions:
            parts.append("no tumour")
        return ". ".join(parts) + "."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping; `from_dict` undoes it."""
        return {
            "anatomy": self.anatomy_name,
            "region": self.region,
            "phase": self.phase,
            "sex": self.sex,
            "age_decade": self.age_decade,
            "habitus": self.habitus,
            "organs": dict(self.organs),
            "lesions": [vars(lesion) | {} for lesion in self.lesions],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Findings:
        """Findings from `to_dict`'s mapping; FindingsError names a field that is unknown or malformed."""
        known = {"anatomy", "region", "phase", "sex", "age_decade", "habitus", "organs", "lesions"}
        if unknown := set(data) - known:
            raise FindingsError(f"unknown findings field {sorted(unknown)}; known: {sorted(known)}.")
        try:
            lesions = tuple(Lesion(**{**item, "size_mm": float(item["size_mm"])}) for item in data.get("lesions", ()))
        except (TypeError, KeyError, ValueError) as error:
            raise FindingsError(f"a lesion needs organ, site, size_mm and attenuation ({error}).") from error
        return cls(
            region=data.get("region", "abdomen and pelvis"),
            phase=data.get("phase", ""),
            sex=data.get("sex", ""),
            age_decade=data.get("age_decade"),
            habitus=data.get("habitus", ""),
            organs=data.get("organs", {}),
            lesions=lesions,
            anatomy_name=data.get("anatomy", TORSO.name),
        )


def _one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        options = ", ".join(repr(a) for a in allowed)
        raise FindingsError(f"{what} must be one of {options}, got {value!r}.")


__all__ = ["STATUSES", "Findings", "Lesion"]
