"""Hypothesis strategies for the project's nouns."""

from __future__ import annotations

from hypothesis import strategies as st

from guidegen_data.anatomy import ATTENUATIONS, HABITUS, PHASES, TORSO, Anatomy
from guidegen_data.reports.findings import SEXES, Findings, Lesion


@st.composite
def findings(draw: st.DrawFn, anatomy: Anatomy = TORSO, max_lesions: int = 4, whole_mm: bool = True) -> Findings:
    """Any valid Findings of an anatomy: no lesion outside the field or in an absent organ.

    Lesion sizes are whole millimetres unless `whole_mm` is False.
    """
    region = draw(st.sampled_from(anatomy.regions))
    shown = anatomy.region_organs[region]
    organs = {}
    for organ in anatomy.organs:
        # One organ in four: a report that finds something everywhere would crowd out the other cases.
        if len(organ.statuses) > 1 and draw(st.integers(0, 3)) == 0:
            organs[organ.name] = draw(st.sampled_from([s for s in organ.statuses if s != "normal"]))
    hosts = [
        (organ.name, site)
        for organ in anatomy.organs
        for site in organ.sites
        if organ.name in shown and organs.get(organ.name) != "absent"
    ]
    size = st.integers(6, 120).map(float) if whole_mm else st.floats(6.0, 120.0)
    lesion = st.builds(
        lambda host, size_mm, attenuation: Lesion(*host, size_mm, attenuation),
        st.sampled_from(hosts) if hosts else st.nothing(),
        size,
        st.sampled_from(["", *ATTENUATIONS]),
    )
    return Findings(
        region=region,
        phase=draw(st.sampled_from(["", *PHASES])),
        sex=draw(st.sampled_from(["", *SEXES])),
        age_decade=draw(st.sampled_from([None, *range(0, 110, 10)])),
        habitus=draw(st.sampled_from(["", *HABITUS])),
        organs=organs,
        lesions=tuple(draw(st.lists(lesion, max_size=max_lesions if hosts else 0))),
        anatomy_name=anatomy.name,
    )
