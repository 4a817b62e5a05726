"""Rows of the README's tables for the figures of both stages: (what, figure) from a results file's figures."""

from __future__ import annotations

from typing import Any

Rows = list[tuple[str, str]]

_WAYS = {
    "system": "as the pipeline draws them",
    "anchored": "anchored, nothing added by rule",
    "network": "network alone, no anchors, no constraint",
}


def consistency(figures: dict[str, Any]) -> Rows:
    """Cacc / Cerr / Cmis, absence and diameter of one way."""
    way = _WAYS[figures["how"]]
    added = f", {figures['num_added_by_rule']} added by rule" if figures["how"] == "system" else ""
    rows = [
        (
            f"lesions placed right / misplaced / missing, {way} (N = {figures['N']}{added})",
            f"{figures['Cacc']} / {figures['Cerr']} / {figures['Cmis']}",
        )
    ]
    if last := figures.get("published"):
        what = f"the same in what guidegen-shard publishes, maps that fail drawn anew ({last['num_drafts']} drafts)"
        rows.append((what, f"{last['Cacc']} / {last['Cerr']} / {last['Cmis']}"))
    by_hand = figures["by_wording"].get("by hand")
    if by_hand:
        shares = f"{by_hand['Cacc']} / {by_hand['Cerr']} / {by_hand['Cmis']}"
        rows.append((f"the same, reports written by hand (N = {by_hand['N']})", shares))
    if figures["num_absent"]:
        rows.append(
            (
                f"organs absent when said absent, {way} (N = {figures['num_absent']})",
                f"{figures['absent_when_said_absent']}",
            )
        )
    if figures["num_placed_right"]:
        within = f"lesion diameter within 35 % of the request, {way} (N = {figures['num_placed_right']})"
        rows.append((within, f"{figures['diameter_within_35_percent']}"))
    return rows


def organ_sizes(figures: dict[str, Any]) -> Rows:
    """Organs said to be enlarged or small; the three worst are named."""
    organs = {n: r for n, r in figures["rows"].items() if not n.startswith("habitus")}
    worst = sorted(organs, key=lambda n: organs[n]["right_direction"])[:3]
    named = ", ".join(f"{n} {organs[n]['right_direction']}" for n in worst)
    rows = [
        (
            f"organs said to be enlarged or small that are (N = {figures['N']}); the worst",
            f"{figures['right_direction']}; {named}",
        )
    ]
    if "as_asked" in figures:
        each = ", ".join(f"{n} {r['as_asked']:g}" for n, r in organs.items() if r.get("as_asked", 1) < 1)
        asked = f"the same, measured against the usual sizes (N = {figures['num_as_asked']}); not always"
        rows.append((asked, f"{figures['as_asked']}; {each or 'none'}"))
    habitus = figures["rows"].get("habitus large")
    if habitus:
        rows.append((f"large patients wider than slim ones (N = {habitus['N']})", f"{habitus['right_direction']}"))
    return rows


def plausibility(figures: dict[str, Any]) -> Rows:
    """Shape figures against real maps, and the nearest training map."""
    s, copying = figures["summary"], figures["copying"]
    made, real = copying["nearest_training_dice_generated"], copying["nearest_training_dice_training"]
    return [
        (
            f"generated label maps (N = {figures['num_generated']}) against deformed real ones: "
            "error of volume / of roughness, mean |log2| over classes",
            f"{s['volume_log2_error']} / {s['roughness_log2_error']}",
        ),
        ("pieces a class, generated / real", f"{s['pieces_ratio']}"),
        (
            "neighbours that must touch and do, generated / real",
            f"{s['neighbours_touching']} / {figures['neighbours_touching_real']}",
        ),
        (
            "Dice to the nearest training map, median: generated / training maps among themselves",
            f"{made['median']} / {real['median']}",
        ),
        (
            "pairwise Dice, median: generated / training maps",
            f"{copying['pairwise_dice_generated']['median']} / {copying['pairwise_dice_training']['median']}",
        ),
    ]


def mask_steps(figures: dict[str, Any]) -> Rows:
    """Quality by the number of steps."""
    steps = figures["steps"]
    return [
        (
            f"stage 1 with {' / '.join(steps)} steps: lesions drawn at their site (N = {figures['num_lesions']})",
            " / ".join(f"{r['lesions_drawn_at_their_site']}" for r in steps.values()),
        ),
        (
            "the same: volume error, mean |log2| over classes",
            " / ".join(f"{r['volume_log2_error']}" for r in steps.values()),
        ),
        ("the same: roughness error", " / ".join(f"{r['roughness_log2_error']}" for r in steps.values())),
    ]


def maisi(figures: dict[str, Any]) -> Rows:
    """Seconds beside MAISI's networks and TorchIO."""
    seconds, hours = figures["seconds"], figures["hours_for_10000"]
    names = [name for name in ("ours, CT alone", "MAISI, CT alone", "TorchIO, CT alone") if name in seconds]
    maisi = (
        f"MAISI's networks as MONAI ships them, {figures['maisi_steps']} steps, fp32 since they refuse bf16 on a CPU"
    )
    what = f"ours, bf16 / {maisi} / TorchIO's random texture"
    return [
        (
            f"one 128^3 CT from its label map, in the same run: {what}",
            " / ".join(f"{seconds[name]['median']}" for name in names) + " s",
        ),
        ("the same for 10,000 CTs", " / ".join(f"{hours[name]:g}" for name in names) + " h"),
    ]


def evaluation(figures: dict[str, Any]) -> Rows:
    """A model's own table in few rows: is the target where it was asked for, HU, distance to real and to training."""
    found, masks, near = figures["consistency"], figures["masks"], figures["nearest_training_dice"]
    lesions, target = found["lesions"], figures["target"]
    apart = ", ".join(f"{name} {row['difference']:+}" for name, row in figures["hu"].items())
    far, others = figures["fidelity"], figures.get("masks_of_other_patients")
    beside = "" if not others else f" / {others['volume_log2_error']} / {others['roughness_log2_error']}"
    return [
        (
            f"targets at the asked place / elsewhere / missing, first attempts (N = {lesions['N']})",
            f"{lesions['acc']} / {lesions['err']} / {lesions['mis']}",
        ),
        ("targets on the asked side / at the asked level", f"{target['side']} / {target['level']}"),
        (f"organ statuses as asked (N = {found['organ_statuses']['N']})", f"{found['organ_statuses']['found']}"),
        (f"first attempts that pass the verdict (N = {figures['num_cases']})", f"{figures['passed_at_once']}"),
        (
            "label maps against real ones: error of volume / of roughness, mean |log2| over classes"
            + (" / both of as many other patients" if others else ""),
            f"{masks['volume_log2_error']} / {masks['roughness_log2_error']}{beside}",
        ),
        ("median HU, generated minus real", apart),
        (
            "slice Frechet distance in its own autoencoder, generated to real / real to real",
            f"{far['generated_to_real']} / {far['real_to_real']}",
        ),
        ("Dice to the nearest training map, median: generated / real", f"{near['generated']} / {near['real']}"),
    ]


_HU_ORGANS = ("liver", "spleen", "kidney", "aorta", "lung", "vertebrae")


def ct_quality(figures: dict[str, Any]) -> Rows:
    """HU and texture inside organs."""
    rows: Rows = []
    for name, setting in figures["settings"].items():
        shown = _apart(setting["median_difference_hu"])
        rows.append((f"median HU, generated minus real, {name} (N = {figures['num']})", shown))
        for phase, held in setting.get("by_phase", {}).items():
            rows.append((f"the same, {phase} (N = {held['N']})", _apart(held["median_difference_hu"])))
        ratios = f"{setting['median_step_ratio']} / {setting['median_spread_ratio']}"
        rows.append(("slice-to-slice difference / spread inside organs, generated over real", ratios))
        if "liver_noise_power" in setting:
            rows.append(
                ("noise power in the liver, generated over real", f"{setting['liver_noise_power']['total_ratio']}")
            )
        drifts = {n: row for n, row in setting["by_class"].items() if n in _HU_ORGANS}
        told = ", ".join(f"{n} {row['made']['drift_hu']} ({row['real']['drift_hu']})" for n, row in drifts.items())
        rows.append(("drift of the organ's mean HU along the body, generated (real)", told))
        if around := setting.get("around_classes"):
            what = "around the classes: HU apart (Wasserstein) / outline's steps along the body / its width, over real"
            rows.append((what, " / ".join(f"{value:.3g}" for value in around.values())))
        if "slice_frechet" in setting:
            rows.append(("slice Frechet distance to the real CTs of the maps", f"{setting['slice_frechet']}"))
    return rows


def ct_solvers(figures: dict[str, Any]) -> Rows:
    """Ways through the flow: what each costs and how near its CTs come to the real ones."""
    what = "slice Frechet distance / slice-to-slice difference / spread / CPU seconds a CT"
    kept = ("slice_frechet", "median_step_ratio", "median_spread_ratio", "cpu_seconds_a_ct")
    return [
        (f"{name}: {what} (N = {figures['num']})", " / ".join(str(row[key]) for key in kept))
        for name, row in figures["settings"].items()
    ]


def _apart(difference_hu: dict[str, float]) -> str:
    return ", ".join(f"{n} {difference_hu[n]:+}" for n in _HU_ORGANS if n in difference_hu)


def abstraction(figures: dict[str, Any]) -> Rows:
    """Reports by hand that were understood in every field, by set."""
    sets = {name: f for name, f in figures.items() if isinstance(f, dict) and "exact_share" in f}
    sizes = " / ".join(str(f["reports"]) for f in sets.values())
    shares = " / ".join(f"{f['exact_share']}" for f in sets.values())
    return [(f"reports by hand understood in every field, {' / '.join(sets)} set (N = {sizes})", shares)]


def loading(figures: dict[str, Any]) -> Rows:
    """Decoding beside nibabel, streaming beside webdataset."""
    return [
        (
            "cases loaded a second: GuideGenDataset over plain nibabel / in order over webdataset",
            f"{figures['random_access_over_nibabel']} / {figures['streaming_over_webdataset']}",
        )
    ]


def nnunet(figures: dict[str, Any]) -> Rows:
    """What the plans, the batches and the validation of a development run on real CT were made of."""
    both = [figures[configuration] for configuration in ("2d", "3d_fullres")]
    shares = " / ".join(f"{sum(run['patches_synthetic']) / len(run['patches_synthetic']):.2f}" for run in both)
    patients = {name for run in both for name in run["validated_on"]}
    what = f"nnU-Net's commands on {figures['num_real']} real CTs and {figures['num_stand_ins']} more as stand-ins"
    return [
        (
            f"{what} for synthetic cases: CTs planned from / share of stand-ins in the patches, 2d / 3d_fullres",
            f"{figures['num_cases_planned_from']} / {shares}",
        ),
        (
            "the same: real patients validated on / stand-ins among them",
            f"{len(patients)} / {sum(name.startswith('guidegen_') for name in patients)}",
        ),
    ]


def adherence(figures: dict[str, Any]) -> list[tuple[str, str]]:
    mean, organs = figures["mean_over_organs"], figures["organs"]
    what = (
        f"Dice of a segmenter of real patients on unseen ones (N = {figures['num_cases']}) / on our CTs of their maps"
    )
    drops = ", ".join(f"{name} {row['drop']:+.2f}" for name, row in organs.items())
    return [
        (what, f"{mean['real']:.3f} / {mean['generated']:.3f}"),
        (
            "the same on our CTs, label maps 5 mm off / of the next patient",
            f"{mean['shifted']:.3f} / {mean['exchanged']:.3f}",
        ),
        ("drop by organ", drops),
    ]
