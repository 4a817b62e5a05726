"""Tables and curve of what is gained on whole scans and on scans that were cut down to their contours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.downstream_scores import ORGANS
from benchmarks.downstream_statistics import TWINS
from benchmarks.downstream_table import ARM_NAMES, counts, interval

_MAIN = "downstream_donor_2400"
_GROUPS = ("whole", "cut", "all")
_BESIDE = {
    "guidegen-0.5 over synthseg": "GuideGen, half, over SynthSeg's random texture on the same label maps",
    "guidegen-0.5 over cut": "GuideGen, half, over the same patients in our cases' field of view",
    "guidegen-0.5 over donors": "GuideGen, half, over real patients of whom the generator learned",
    "guidegen-falling over synthseg-falling": "GuideGen, falling, over SynthSeg's random texture on our label maps",
    "guidegen-falling over cut-falling": "GuideGen, falling, over the same patients in our cases' field of view",
    "guidegen-falling over donors-falling": "GuideGen, falling, over real patients of whom the generator learned",
}
#: What a part of a result's name says of its trainings.
_PARTS = {"_imaged": "cleared scans", "_float32": "in float32", "_largest": "the largest piece of each organ kept"}


def _title(result: str) -> str:
    setting = "Strict setting" if "_strict" in result else "Donor setting"
    return ", ".join([setting, *(words for part, words in _PARTS.items() if part in result)])


def in_short(figures: dict[str, Any], arm: str = "guidegen-0.5", result: str = _MAIN) -> str:
    """One row for each k: what an arm gains on whole scans, on cut ones and on all, and random texture on whole."""
    cut, state = len(figures["cut_test_patients"]), "cleared" if "imaged" in result else "cut"
    whole = figures["patients"]["test"]["num"] - cut
    lines = [
        f"| real patients | Dice alone, whole scans | gained on the {whole} whole scans (95 %) | p | gain / lose "
        f"| HD95 there | gained on the {cut} {state} scans | on all | SynthSeg's random texture, whole scans |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for k, rows in figures["results"][result].items():
        if held := rows.get(arm):
            texture = rows.get(TWINS[arm]["synthseg"])
            seeds = len(held["whole"]["by_seed"])
            cells = [
                k if seeds > 1 else f"{k}, one seed",
                f"{rows['real']['whole']:.3f}",
                interval(held["whole"]),
                f"{held['whole']['p_wilcoxon']:.2g}",
            ]
            cells += [counts(held["whole"]), f"{held['whole']['hd95_mm']:+.1f} mm"]
            cells += [interval(held["cut"]), interval(held["all"])]
            lines.append(f"| {' | '.join([*cells, interval(texture['whole']) if texture else ''])} |")
    return "\n".join(lines)


def gain(figures: dict[str, Any]) -> str:
    """The README's tables: trainings on cleared scans where there are some, then those on cut scans as they are."""
    told = []
    for result in figures["results"]:
        if result.startswith("downstream_donor_2400_imaged"):
            told.append(f"{_title(result)}, synthetic patches falling from all to none:")
            told.append(in_short(figures, "guidegen-falling", result))
    return "\n\n".join([*told, "Cut scans as they are, half of the patches throughout:", in_short(figures)])


def markdown(figures: dict[str, Any]) -> str:
    """Who was cut, and of every result and k what each arm gained on whole scans, on cut ones and on all."""
    lines = ["| scans | patients | cut | " + " | ".join(f"{o.replace('_', ' ')} outside the CT" for o in ORGANS) + " |"]
    lines.append("|---|---|---|" + "---|" * len(ORGANS))
    for what, told in figures["patients"].items():
        away = " | ".join(f"{share:.1%}" for share in told["share_of_organ_cut"].values())
        lines.append(f"| {what} | {told['num']} | {told['num_cut']} | {away} |")
    for name, table in figures["results"].items():
        lines += ["", f"{_title(name)}: Dice gained over real alone (95 %, seeds and patients drawn); p, gain / lose, "
                  "HD95 gained and each seed on whole scans"]  # fmt: skip
        lines += ["", "| k | trained on | whole scans | cut scans | all | p | gain / lose | HD95 | seeds |"]
        lines.append("|---|---|---|---|---|---|---|---|---|")
        rows = [(k, arm, held) for k, arms in table.items() for arm, held in arms.items() if arm != "real"]
        for k, arm, held in rows:
            whole = held["whole"]
            cells = [k, ARM_NAMES.get(arm) or _BESIDE[arm], *(interval(held[g]) for g in _GROUPS)]
            cells += [f"{whole['p_wilcoxon']:.2g}", counts(whole), f"{whole['hd95_mm']:+.1f} mm"]
            cells.append(" / ".join(f"{v:+.3f}" for v in whole["by_seed"].values()))
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"| k | Dice gained on whole scans by | {' | '.join(ORGANS)} |", "|---|---|" + "---|" * len(ORGANS)]
    for k, arms in figures["results"][_MAIN].items():
        for arm, held in arms.items():
            if arm != "real":
                gains = held["whole"]["organs"].values()
                told = " | ".join("" if g is None else f"{g:+.3f}" for g in gains)
                lines.append(f"| {k} | {ARM_NAMES.get(arm) or _BESIDE[arm]} | {told} |")
    return "\n".join(lines)


def draw(figures: dict[str, Any], path: Path) -> None:
    """A PNG with a panel for whole scans and one for cut ones: what each arm gains over real alone, with intervals."""
    from matplotlib.figure import Figure

    table = figures["results"][_MAIN]
    arms = [arm for arm in ARM_NAMES if arm != "real" and any(arm in rows for rows in table.values())]
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    num_cut = len(figures["cut_test_patients"])
    counts = {"whole": figures["patients"]["test"]["num"] - num_cut, "cut": num_cut}
    for axis, (group, count) in zip(panels, counts.items(), strict=True):
        for number, arm in enumerate(arms):
            held = [(tick, rows[arm][group]) for tick, rows in enumerate(table.values()) if arm in rows]
            gains = [row["difference"] for _, row in held]
            below = [max(0.0, row["difference"] - row["interval_95"][0]) for _, row in held]
            above = [max(0.0, row["interval_95"][1] - row["difference"]) for _, row in held]
            places = [tick + 0.07 * (number - len(arms) / 2) for tick, _ in held]
            axis.errorbar(places, gains, [below, above], fmt="o-", color=f"C{number}", capsize=3, label=ARM_NAMES[arm])
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(table)), list(table))
        axis.set_xlabel("real training patients k")
        axis.set_title(f"{count} test patients whose CT {'is whole' if group == 'whole' else 'was cut to contours'}")
        axis.grid(alpha=0.3)
        axis.set_xlim(-0.5, len(table) - 0.5)
    panels[0].set_ylabel("Dice gained over real alone, 95 % interval")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)
