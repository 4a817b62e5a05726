"""The JSON form of findings that a language model fills in: a walk through fixed text and choices, valid at every end.

Whatever is chosen at each step, the text is JSON and its findings are valid: a choice that an earlier one forbids (a
lesion outside the field or in an organ that is gone, a second status of an organ) is not among the options.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from guidegen_data.anatomy import ATTENUATIONS, HABITUS, PHASES, TORSO, Anatomy
from guidegen_data.errors import FindingsError, GuideGenError
from guidegen_data.reports.findings import MAX_LESION_MM, MAX_LESIONS, MIN_LESION_MM, SEXES, Findings, Lesion

UNSTATED = "not stated"
_AGES = tuple(f"{decade}s" for decade in range(0, 110, 10))

#: Fixed text, or the options one of which is to be sent back. No option is the beginning of another one.
Step = str | list[str]
Choose = Callable[[str, Sequence[str]], str]


def steps(anatomy: Anatomy) -> Generator[Step, str, None]:
    """The walk. Send back one of the options after each list."""
    region = yield from _field('{"region": "', anatomy.regions)
    for name, options in (("phase", PHASES), ("sex", SEXES), ("age", _AGES), ("habitus", HABITUS)):
        yield from _field(f', "{name}": "', (UNSTATED, *options))
    said = yield from _statuses(anatomy)
    shown = anatomy.region_organs[region]
    hosts = [o for o in anatomy.organs if o.name in shown and said.get(o.name) != "absent"]
    yield from _lesions([f"{o.name}, {site}".removesuffix(", ") for o in hosts for site in o.sites])
    yield "}"


def _field(before: str, options: Sequence[str]) -> Generator[Step, str, str]:
    yield before
    chosen = yield [f'{option}"' for option in options]
    return chosen[:-1]


def _statuses(anatomy: Anatomy) -> Generator[Step, str, dict[str, str]]:
    yield ', "organs": ['
    said: dict[str, str] = {}
    free = {f"{o.name} {s}": (o.name, s) for o in anatomy.organs for s in o.statuses if s != "normal"}
    while free:
        comma = ", " if said else ""
        chosen = yield ["]", *(f'{comma}"{words}"' for words in free)]
        if chosen == "]":
            return said
        organ, status = free[chosen.removeprefix(", ").strip('"')]
        said[organ] = status
        free = {words: told for words, told in free.items() if told[0] != organ}
    yield "]"
    return said


def _lesions(places: Sequence[str]) -> Generator[Step, str, None]:
    yield ', "lesions": ['
    sizes = [f"{mm}," for mm in range(int(MIN_LESION_MM), int(MAX_LESION_MM) + 1)]
    for number in range(MAX_LESIONS if places else 0):
        begin = ', {"place": "' if number else '{"place": "'
        if (yield ["]", begin]) == "]":
            return
        yield [f'{place}"' for place in places]
        yield ', "size_mm": '
        yield sizes
        yield from _field(' "attenuation": "', (UNSTATED, *ATTENUATIONS))
        yield "}"
    yield "]"


def fill(anatomy: Anatomy, choose: Choose) -> str:
    """The text that `choose(text so far, options)` leads to."""
    walk = steps(anatomy)
    text = ""
    step: Step = next(walk)
    while True:
        answer = step if isinstance(step, str) else choose(text, step)
        text += answer
        try:
            step = next(walk) if isinstance(step, str) else walk.send(answer)
        except StopIteration:
            return text


def read(text: str, anatomy: Anatomy = TORSO) -> Findings:
    """The findings that such a text states. FindingsError for one that is not of this form."""
    try:
        data = json.loads(text)
        organs = dict(words.rsplit(" ", 1) for words in data["organs"])
        lesions = tuple(_lesion(item) for item in data["lesions"])
        return Findings(
            region=data["region"],
            phase=_stated(data["phase"]),
            sex=_stated(data["sex"]),
            age_decade=int(data["age"][:-1]) if _stated(data["age"]) else None,
            habitus=_stated(data["habitus"]),
            organs=organs,
            lesions=lesions,
            anatomy_name=anatomy.name,
        )
    except GuideGenError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise FindingsError(
            f"expected findings in the JSON form of the abstractor, got something else ({type(error).__name__})."
        ) from error


def write(findings: Findings) -> str:
    """The text that states these findings; sizes to the millimetre. `read` undoes it."""
    answers = _answers(findings)
    return fill(findings.anatomy, lambda text, options: next(answers))


def _answers(findings: Findings) -> Iterator[str]:
    yield f'{findings.region}"'
    age = UNSTATED if findings.age_decade is None else f"{findings.age_decade}s"
    for value in (findings.phase, findings.sex, age, findings.habitus):
        yield f'{value or UNSTATED}"'
    said = [f'"{organ} {status}"' for organ, status in findings.organs.items() if status != "normal"]
    yield from (f", {words}" if i else words for i, words in enumerate(said))
    yield "]"
    for i, lesion in enumerate(findings.lesions):
        yield ', {"place": "' if i else '{"place": "'
        yield f"{lesion.organ}, {lesion.site}".removesuffix(", ") + '"'
        yield f"{round(lesion.size_mm)},"
        yield f'{lesion.attenuation or UNSTATED}"'
    yield "]"


def _lesion(item: dict[str, Any]) -> Lesion:
    organ, _, site = item["place"].partition(", ")
    return Lesion(organ, site, float(item["size_mm"]), _stated(item["attenuation"]))


def _stated(value: str) -> str:
    return "" if value == UNSTATED else value
