"""The curve of the downstream benchmark: what every arm gains over `real`, with its interval, over k."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.downstream_table import ARM_NAMES


def draw(figures: dict[str, Any], path: Path) -> None:
    """A PNG with two panels: mean Dice of each arm over k, and its difference to `real` with the 95 % interval."""
    from matplotlib.figure import Figure

    table = figures["summary"]["k"]
    arms = list(dict.fromkeys(arm for rows in table.values() for arm in rows))
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, arm in enumerate(arms):
        ks = [k for k in table if arm in table[k]]
        ticks = [list(table).index(k) for k in ks]
        label = ARM_NAMES.get(arm, arm)
        left.plot(ticks, [table[k][arm]["mean_dice"] for k in ks], "o-", color=f"C{number}", label=label)
        # A little beside each other, so that intervals can be told apart.
        places = [tick + 0.045 * (number - len(arms) / 2) for tick in ticks]
        compared = [(p, table[k][arm]["against_real"]["dice"]) for p, k in zip(places, ks, strict=True)
                    if "against_real" in table[k][arm]]  # fmt: skip
        if compared:
            gains = [c["difference"] for _, c in compared]
            below = [c["difference"] - c["interval_95"][0] for _, c in compared]
            above = [c["interval_95"][1] - c["difference"] for _, c in compared]
            right.errorbar([p for p, _ in compared], gains, [below, above], fmt="o-", color=f"C{number}", capsize=3)
    right.axhline(0, color="black", linewidth=0.8)
    for axis, label in ((left, "mean Dice"), (right, "Dice difference to real, 95 % interval")):
        axis.set_xticks(range(len(table)), list(table))
        axis.set_xlabel("real training patients k")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.set_xlim(-0.5, len(table) - 0.5)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    num_cases = figures["summary"]["num_cases"]
    setting = f"{figures['setting']} setting, {figures['num_iterations']:,} iterations"
    figure.suptitle(f"OpenKBP, seven organs, {num_cases} test patients, {setting}")
    figure.savefig(path, dpi=130)
