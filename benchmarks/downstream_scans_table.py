"""Tables and curve of what is gained on whole scans and on scans that were cut down to their contours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.downstream_scores import ORGANS
from benchmarks.downstream_statistics import TWINS
from benchmarks.downstream_table import ARM_NAMES, counts, interval, told_with_interval

_MAIN = "downstream_donor_2400"
_CLEARED = "downstream_donor_2400_imaged_float32"
_GROUPS = ("whole", "cut", "all")
_SHOWN = {"whole": "whose CT is whole", "cut": "whose CT was cut to contours"}
_BESIDE = {
    "guidegen-0.5 over synthseg": "GuideGen, half, over SynthSeg's random texture on the same label maps",
    "guidegen-0.5 over cut": "GuideGen, half, over the same patients in our cases' field of view",
    "guidegen-0.5 over donors": "GuideGen, half, over real patients of whom the generator learned",
    "guidegen-0.5 over real, next k": "GuideGen, half, over the next k of real patients alone",
    "guidegen-falling over real, next k": "GuideGen, falling, over the next k of real patients alone",
    "guidegen-falling over synthseg-falling": "GuideGen, falling, over SynthSeg's random texture on our label maps",
    "guidegen-falling over cut-falling": "GuideGen, falling, over the same patients in our cases' field of view",
    "guidegen-falling over donors-falling": "GuideGen, falling, over real patients of whom the generator learned",
    "guidegen-and-cut-falling over cut-falling": "GuideGen and the same patients cut, over those without GuideGen",
    "guidegen-and-cut-falling over guidegen-falling": "GuideGen and the same patients cut, over GuideGen without those",
    "guidegen-and-cut-falling over real, next k": "GuideGen and the same patients cut, over the next k of real",
}
_CAPTION = (
    "Dice gained over real alone (95 %, of many seeds and patients); p (Holm) of all scans; gain / lose, HD95 gained "
    "and each seed on whole scans"
)
_HEAD = ("k", "trained on", "whole scans", "cut scans", "all", "p (Holm)", "all but two damaged patients",
         "gain / lose", "HD95", "seeds")  # fmt: skip
#: What a part of a result's name says of its trainings.
_PARTS = {
    "_imaged": "cleared scans",
    "_float32": "in float32",
    "_since": "the generator trained on since",
    "_192": "192 cases of the generator trained on since",
    "_history": "the first generator",
    "_largest": "the largest piece of each organ kept",
}


def _title(result: str) -> str:
    setting = "Strict setting" if "_strict" in result else "Donor setting"
    return ", ".join([setting, *(words for part, words in _PARTS.items() if part in result)])


def in_short(figures: dict[str, Any], arm: str, result: str) -> str:
    """One row for each k: what an arm gains on whole scans, on cut ones and on all, and what its like gain."""
    cut, state = len(figures["cut_test_patients"]), "cleared" if "imaged" in result else "cut"
    whole = figures["patients"]["test"]["num"] - cut
    lines = [
        f"| real patients | seeds | Dice alone, whole scans | gained on the {whole} whole scans (95 %) | gain / lose "
        f"| HD95 there (95 %) | gained on the {cut} {state} scans | gained on all | p (Holm) of all "
        "| the same patients, cut alike: whole / cut / all | random texture: whole / cut / all |",
        "|" + "---|" * 11,
    ]
    for k, rows in figures["results"][result].items():
        if held := rows.get(arm):
            twins = [rows.get(TWINS[arm][twin]) for twin in ("cut", "synthseg")]
            cells = [
                k,
                seeds_of(held),
                f"{rows['real']['whole']:.3f}",
                interval(held["whole"]),
                counts(held["whole"]),
                distance(held["whole"]),
                interval(held["cut"]),
                interval(held["all"]),
                f"{held['all']['p_holm']:.2g}",
                *(" / ".join(f"{twin[g]['difference']:+.3f}" for g in _GROUPS) if twin else "" for twin in twins),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def seeds_of(held: dict[str, Any]) -> str:
    """How many seeds a row has, and which one where there is no other."""
    seeds = list(held["all"]["by_seed"])
    return str(len(seeds)) if len(seeds) > 1 else f"1 (seed {seeds[0]})"


def distance(held: dict[str, Any]) -> str:
    """The difference of HD95 with its interval."""
    return f"{told_with_interval(held['hd95_mm'], '+.1f')} mm"


def gain(figures: dict[str, Any]) -> str:
    """The README's tables: trainings on cleared scans with the generator of now, where there are some."""
    told = []
    for result in (_CLEARED, f"{_CLEARED}_largest"):
        if result in figures["results"]:
            told.append(f"{_title(result)}, synthetic patches falling from all to none:")
            told.append(in_short(figures, "guidegen-falling", result))
    return "\n\n".join(told)


def markdown(figures: dict[str, Any]) -> str:
    """Who was cut, and of every result and k what each arm gained on whole scans, on cut ones and on all."""
    lines = ["| scans | patients | cut | " + " | ".join(f"{o.replace('_', ' ')} outside the CT" for o in ORGANS) + " |"]
    lines.append("|---|---|---|" + "---|" * len(ORGANS))
    for what, told in figures["patients"].items():
        away = " | ".join(f"{share:.1%}" for share in told["share_of_organ_cut"].values())
        lines.append(f"| {what} | {told['num']} | {told['num_cut']} | {away} |")
    for name, table in figures["results"].items():
        lines += ["", f"{_title(name)}: {_CAPTION}", "", f"| {' | '.join(_HEAD)} |", "|" + "---|" * len(_HEAD)]
        lines += [_gains(k, arm, held) for k, arms in table.items() for arm, held in arms.items() if arm != "real"]
        lines += [
            "",
            f"| k | Dice gained on whole scans by | {' | '.join(ORGANS)} |",
            "|---|---|" + "---|" * len(ORGANS),
        ]
        for k, arms in table.items():
            lines += [_organs(k, arm, held["whole"]) for arm, held in arms.items() if arm != "real"]
    return "\n".join(lines)


def _gains(k: str, arm: str, held: dict[str, Any]) -> str:
    whole = held["whole"]
    cells = [k, _name(arm), *(interval(held[g]) for g in _GROUPS), f"{held['all']['p_holm']:.2g}"]
    cells += [interval(held["undamaged"]), counts(whole), distance(whole)]
    cells.append(" / ".join(f"{v:+.3f}" for v in whole["by_seed"].values()))
    return f"| {' | '.join(cells)} |"


def _organs(k: str, arm: str, held: dict[str, Any]) -> str:
    gains = " | ".join("" if g is None else f"{g:+.3f}" for g in held["organs"].values())
    return f"| {k} | {_name(arm)} | {gains} |"


def _name(arm: str) -> str:
    return ARM_NAMES.get(arm) or _BESIDE[arm]


def draw(figures: dict[str, Any], path: Path) -> None:
    """A PNG with a row for trainings on cleared scans and one for those on cut scans as they are, and a panel for whole
    scans and one for cut ones: what each arm gains over real alone, with intervals, hollow where there is one seed."""
    from matplotlib.figure import Figure

    results = [r for r in (_CLEARED, _MAIN) if r in figures["results"]]
    num_cut = len(figures["cut_test_patients"])
    counts = {"whole": figures["patients"]["test"]["num"] - num_cut, "cut": num_cut}
    figure = Figure(figsize=(12, 1 + 5 * len(results)), layout="constrained")
    for row, result in zip(figure.subfigures(len(results), 1, squeeze=False)[:, 0], results, strict=True):
        panels, table = row.subplots(1, 2, sharey=True), figures["results"][result]
        arms = [arm for arm in ARM_NAMES if arm != "real" and any(arm in rows for rows in table.values())]
        for axis, (group, count) in zip(panels, counts.items(), strict=True):
            for number, arm in enumerate(arms):
                _curve(axis, table, arm, group, 0.07 * (number - (len(arms) - 1) / 2), f"C{number}")
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_xticks(range(len(table)), list(table))
            axis.set_xlim(-0.5, len(table) - 0.5)
            axis.grid(alpha=0.3)
            axis.set_title(f"{_title(result)}:\n{count} test patients {_SHOWN[group]}", fontsize=10)
        panels[0].set_ylabel("Dice gained over real alone, 95 % interval")
        row.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=2)
        for axis in panels:
            axis.set_xlabel("real training patients k")
    figure.savefig(path, dpi=110)


def _curve(axis: Any, table: dict[str, Any], arm: str, group: str, aside: float, colour: str) -> None:
    """What an arm gains at every k that it has, drawn `aside` of the ticks."""
    held = [(tick, rows[arm][group]) for tick, rows in enumerate(table.values()) if arm in rows]
    gains = [row["difference"] for _, row in held]
    reach = [[abs(row["interval_95"][side] - row["difference"]) for _, row in held] for side in (0, 1)]
    places = [tick + aside for tick, _ in held]
    axis.errorbar(places, gains, reach, fmt="o-", color=colour, capsize=3, label=ARM_NAMES[arm])
    for place, gain, (_, row) in zip(places, gains, held, strict=True):
        if len(row["by_seed"]) == 1:
            axis.plot(place, gain, "o", color=colour, markerfacecolor="white", zorder=3)
