"""The README's tables of a downstream result: every arm at every k, and what each organ gained."""

from __future__ import annotations

from typing import Any

from benchmarks.downstream_scores import ORGANS

_ARMS = {
    "real": "real alone",
    "guidegen-0.25": "+ GuideGen, a quarter of the patches",
    "guidegen-0.5": "+ GuideGen, half of the patches",
    "guidegen-0.75": "+ GuideGen, three quarters",
    "guidegen-0.5-fixed": "+ GuideGen, half, few cases repeated",
    "guidegen-0.5-complete": "+ GuideGen, half, cases with every organ",
    "real-masks": "+ warped real label maps, our image stage",
    "synthseg": "+ our label maps, SynthSeg's random texture",
    "autoencoder": "+ the same CTs through our autoencoder",
    "synthetic": "GuideGen alone",
}


def markdown(figures: dict[str, Any]) -> str:
    """Two tables, and how many trainings are not done yet."""
    summed = figures["summary"]["k"]
    told = f"{figures['setting'].capitalize()} setting, {figures['num_iterations']:,} iterations in every arm."
    missing = figures["num_missing"]
    left = f" {missing} trainings of these are not done yet." if missing else ""
    lines = [
        told + left,
        "",
        "| k | trained on | seeds | Dice | HD95 | Dice gained over real alone (95 %) | p (Holm) |",
        "|---|---|---|---|---|---|---|",
        *(_level(k, arm, row) for k, arms in summed.items() for arm, row in arms.items()),
    ]
    compared = [(k, arm, row) for k, arms in summed.items() for arm, row in arms.items() if "against_real" in row]
    if compared:
        names = " | ".join(organ.replace("_", " ") for organ in ORGANS)
        lines += ["", f"| k | Dice gained by | {names} |", "|---|---|" + "---|" * len(ORGANS)]
        lines += [_organs(k, arm, row["against_real"]) for k, arm, row in compared]
    textured = [(k, arm, row["against_synthseg"]) for k, arm, row in compared if "against_synthseg" in row]
    if textured:
        head = "| k | Dice gained over SynthSeg's random texture on the same label maps (95 %) | seeds | p |"
        lines += ["", head, "|---|---|---|---|"]
        lines += [_textured(*row) for row in textured]
    return "\n".join(lines)


def in_short(figures: dict[str, Any], arm: str = "guidegen-0.5") -> str:
    """One row for each k: real patients alone, with an arm's cases, what that gains, and what random texture gains."""
    lines = [
        "| real patients | Dice / HD95 alone | Dice / HD95 with GuideGen | gained (95 %) | p (Holm) "
        "| gained by SynthSeg's random texture |",
        "|---|---|---|---|---|---|",
    ]
    for k, arms in figures["summary"]["k"].items():
        if compared := arms.get(arm, {}).get("against_real"):
            levels = [f"{a['mean_dice']:.3f} / {a['mean_hd95_mm']:.0f} mm" for a in (arms["real"], arms[arm])]
            texture = arms.get("synthseg", {}).get("against_real")
            seeds = "" if len(compared["seeds"]) > 1 else ", one seed"
            cells = [k, *levels, f"**{_gained(compared)}{seeds}**", f"{compared['p_holm']:.2g}"]
            lines.append(f"| {' | '.join([*cells, _gained(texture) if texture else ''])} |")
    return "\n".join(lines)


def _gained(compared: dict[str, Any]) -> str:
    """The difference of Dice with its interval."""
    low, high = compared["dice"]["interval_95"]
    return f"{compared['dice']['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


def _textured(k: str, arm: str, compared: dict[str, Any]) -> str:
    told = f"{_ARMS[arm].removeprefix('+ ')}: {_gained(compared)}"
    return f"| {k} | {told} | {_seeds(compared['seeds'])} | {compared['p_wilcoxon']:.2g} |"


def _level(k: str, arm: str, row: dict[str, Any]) -> str:
    cells = [k, _ARMS[arm], _seeds(row["seeds"]), f"{row['mean_dice']:.3f}", f"{row['mean_hd95_mm']:.1f} mm", "", ""]
    if compared := row.get("against_real"):
        some = "" if compared["seeds"] == row["seeds"] else f", {_seeds(compared['seeds'])}"
        cells[5:] = [_gained(compared) + some, f"{compared['p_holm']:.2g}"]
    return f"| {' | '.join(cells)} |"


def _seeds(seeds: list[int]) -> str:
    return str(len(seeds)) if len(seeds) > 1 else f"1 (seed {seeds[0]})"


def _organs(k: str, arm: str, compared: dict[str, Any]) -> str:
    gains = [compared["organs"].get(organ, {}).get("difference") for organ in ORGANS]
    return f"| {k} | {_ARMS[arm]} | {' | '.join('' if g is None else f'{g:+.3f}' for g in gains)} |"
