"""The README's tables of a downstream result: every arm at every k, and what each organ gained."""

from __future__ import annotations

from typing import Any

from benchmarks.downstream_scores import ORGANS

_BESIDE = {
    "against_synthseg": "SynthSeg's random texture on the same label maps",
    "against_cut": "the same real patients, cut to the field of view of our cases",
    "against_guidegen": "our cases without the cut patients",
    "against_donors": "as many real patients of whom the generator learned",
}
ARM_NAMES = {
    "real": "real alone",
    "guidegen-0.25": "+ GuideGen, a quarter of the patches",
    "guidegen-0.5": "+ GuideGen, half of the patches",
    "guidegen-0.75": "+ GuideGen, three quarters",
    "guidegen-falling": "+ GuideGen, all patches at first, none at last",
    "guidegen-0.5-fixed": "+ GuideGen, half, few cases repeated",
    "guidegen-0.5-complete": "+ GuideGen, half, cases with every organ",
    "real-masks": "+ warped real label maps, our image stage",
    "synthseg": "+ our label maps, SynthSeg's random texture",
    "synthseg-falling": "+ our label maps, SynthSeg's random texture, all patches at first, none at last",
    "autoencoder": "+ the same CTs through our autoencoder",
    "cut": "+ the same patients, cut to the field of view of our cases",
    "cut-falling": "+ the same patients, cut to the field of view of our cases, all patches at first, none at last",
    "guidegen-and-cut-falling": "+ GuideGen and the same patients cut, half each, all patches at first, none at last",
    "donors": "+ real patients of whom the generator learned",
    "donors-falling": "+ real patients of whom the generator learned, all patches at first, none at last",
    "synthetic": "GuideGen alone",
}


def markdown(figures: dict[str, Any]) -> str:
    """Arms, organs, how far a gain is that of all, and how many of the trainings asked for were not done."""
    summed = figures["summary"]["k"]
    how = "every arm, in float32" if figures.get("precisions") == ["float32"] else "every arm"
    pieces = ", the largest piece of each organ kept" if "pieces" in figures else ""
    told = f"{figures['setting'].capitalize()} setting, {figures['num_iterations']:,} iterations in {how}{pieces}."
    missing = figures["num_missing"]
    left = (
        f" {missing} of the trainings that the command names were not done; every row tells its seeds."
        if missing
        else ""
    )
    lines = [
        told + left,
        "",
        "| k | trained on | seeds | Dice | HD95 | Dice gained over real alone (95 %) | p (Holm) |",
        "|---|---|---|---|---|---|---|",
        *(_level(k, arm, row) for k, arms in summed.items() for arm, row in arms.items()),
    ]
    compared = [(k, arm, row) for k, arms in summed.items() for arm, row in arms.items() if "against_real" in row]
    if compared:
        lines += _by_organ("Dice gained by")
        lines += [_organs(k, ARM_NAMES[arm], row["against_real"]) for k, arm, row in compared]
    if spread := [(k, arm, row["against_real"]) for k, arm, row in compared if "cases" in row["against_real"]]:
        lines += ["", *_spread_table(spread)]
    # Results of before hold "most": beside the largest k, not the next.
    beside_more = ((k, arm, row.get("against_more_real") or row.get("against_most_real")) for k, arm, row in compared)
    if worth := [(k, arm, held) for k, arm, held in beside_more if held]:
        lines += _by_organ("Dice beside more real patients alone (95 %)")
        lines += [_worth(*row) for row in worth]
    for other, words in _BESIDE.items():
        if beside := [(k, arm, row[other]) for k, arm, row in compared if other in row]:
            lines += ["", f"| k | Dice gained over {words} (95 %) | seeds | p |", "|---|---|---|---|"]
            lines += [_beside(*row) for row in beside]
    return "\n".join(lines)


def _gained(compared: dict[str, Any]) -> str:
    """The difference of Dice with its interval."""
    return interval(compared["dice"])


def interval(held: dict[str, Any]) -> str:
    """A difference of Dice with its interval."""
    return told_with_interval(held, "+.3f")


def told_with_interval(held: dict[str, Any], form: str) -> str:
    """A difference and its interval, where it has one, in a number's format."""
    low, high = held["interval_95"]
    return f"{held['difference']:{form}}" + ("" if low is None else f" ({low:{form}} to {high:{form}})")


def _counts(compared: dict[str, Any]) -> str:
    return counts(compared["cases"]) if compared.get("cases") else ""


def counts(held: dict[str, Any]) -> str:
    """How many patients gain and lose."""
    return f"{held['num_gaining']} / {held['num_losing']}"


def _spread_table(rows: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """Whether a mean gain is that of most patients and organs, or of a few."""
    left = next(name for name in rows[0][2]["without"] if " and " in name)
    told = [
        f"| k | Dice gained by | mean | median patient | gain / lose | without the two patients who gain most (95 %) "
        f"| without {left} (95 %) |",
        "|---|---|---|---|---|---|---|",
    ]
    for k, arm, compared in rows:
        held = compared["cases"]
        means = [f"{compared['dice']['difference']:+.3f}", f"{held['median']:+.3f}", _counts(compared)]
        others = [interval(held["without_two_best"]), interval(compared["without"][left])]
        told.append(f"| {' | '.join([k, ARM_NAMES[arm], *means, *others])} |")
    return told


def _worth(k: str, arm: str, compared: dict[str, Any]) -> str:
    return _organs(k, f"{k} {ARM_NAMES[arm]}, beside {compared['k']} alone: {_gained(compared)}", compared)


def _beside(k: str, arm: str, compared: dict[str, Any]) -> str:
    told = f"{ARM_NAMES[arm].removeprefix('+ ')}: {_gained(compared)}"
    return f"| {k} | {told} | {_seeds(compared['seeds'])} | {compared['p_wilcoxon']:.2g} |"


def _level(k: str, arm: str, row: dict[str, Any]) -> str:
    cells = [
        k,
        ARM_NAMES[arm],
        _seeds(row["seeds"]),
        f"{row['mean_dice']:.3f}",
        f"{row['mean_hd95_mm']:.1f} mm",
        "",
        "",
    ]
    if compared := row.get("against_real"):
        some = "" if compared["seeds"] == row["seeds"] else f", {_seeds(compared['seeds'])}"
        cells[5:] = [_gained(compared) + some, f"{compared['p_holm']:.2g}"]
    return f"| {' | '.join(cells)} |"


def _seeds(seeds: list[int]) -> str:
    return str(len(seeds)) if len(seeds) > 1 else f"1 (seed {seeds[0]})"


def _by_organ(what: str) -> list[str]:
    """Head of a table with a column for each organ."""
    names = " | ".join(organ.replace("_", " ") for organ in ORGANS)
    return ["", f"| k | {what} | {names} |", "|---|---|" + "---|" * len(ORGANS)]


def _organs(k: str, told: str, compared: dict[str, Any]) -> str:
    gains = [compared["organs"].get(organ, {}).get("difference") for organ in ORGANS]
    return f"| {k} | {told} | {' | '.join('' if g is None else f'{g:+.3f}' for g in gains)} |"
