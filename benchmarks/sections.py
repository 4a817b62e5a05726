"""Which results stand under which title, in which order, and how the figures of each are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import describe as of
from benchmarks import describe_parts as part
from benchmarks import downstream_scans_table, downstream_table
from benchmarks import fidelity_rows as beside

Describe = Callable[[dict[str, Any]], list[tuple[str, str]] | str]
#: Results whose tables tell seconds.
TIMED = (
    "throughput_epyc",
    "maisi",
    "mask_networks",
    "ct_solvers",
    "ct_solvers50",
    "ct_student",
    "slabs",
    "shard_writer",
    "loading",
)
#: The results that the README shows; benchmarks/FIGURES.md has all.
IN_README = (
    "downstream_donor_2400_imaged_float32",
    "throughput",
    "maisi",
    "consistency_system",
    "evaluation_head_neck",
)


def _throughput(figures: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in figures.items():
        if key.startswith("seconds_a_case_batch_"):
            batch = key.rsplit("_", 1)[1]
            rows.append((f"one 128^3 pair, end to end, warm, batch {batch}", f"{value['median']} s a case"))
    if parts := figures.get("parts_s"):
        rows.append((f"of it, alone: {' / '.join(parts)}", " / ".join(f"{v}" for v in parts.values()) + " s"))
    if alone := figures.get("seconds_a_label_map_by_batch"):
        what = f"a label map of 128^3, with all that is done to it, batch {' / '.join(alone)}"
        rows.append((what, " / ".join(f"{v['median']}" for v in alone.values()) + " s"))
    if floor := figures.get("floor"):
        times = floor["times_the_floor"]
        what = f"time over its operations at the rate of a large matrix product in {floor['precision']}"
        rows.append((f"{what} ({floor['matrix_rate_gflops']:g} GFLOP/s): {' / '.join(times)}",
                     " / ".join(f"{v}" for v in times.values())))  # fmt: skip
    peak = max(v for k, v in figures.items() if k.startswith("peak_memory_gib"))
    return [*rows, ("peak memory", f"{peak} GiB")]


def _throughput_when(when: str) -> Describe:
    """The rows of another throughput result, under a line that tells when it was measured."""
    return lambda figures: [(f"measured {when}", ""), *_throughput(figures)]


def _posterior(figures: dict[str, Any]) -> list[tuple[str, str]]:
    strided, naive = figures["strided"], figures["one_step_kernel"]
    memory = figures["reverse_step_128_cubed_21_classes"]["peak_extra_gib"]
    found = " / ".join(f"{strided[n]:.3f}" for n in ("1000", "50", "10"))
    what = "total variation of a perfect denoiser's marginal at 1000 / 50 / 10 steps"
    return [
        (what, f"{found} (one-step kernel: {naive['50']:.2f} at 50)"),
        ("extra memory of a reverse step, K = 21, 128^3", f"{memory} GiB"),
    ]


def _autoencoder(figures: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"autoencoder, held-out patient {name}: mean absolute error in the body, {window} window", f"{value} HU")
        for name, errors in figures["mae_hu"].items()
        for window, value in errors.items()
        if window in ("soft", "full")
    ]


def _mask_networks(figures: dict[str, Any]) -> list[tuple[str, str]]:
    ours, monai = figures["ours"], figures["monai"]
    seconds = f"{figures['seconds']:g} s"
    return [
        ("stage 1 network / MONAI's U-Net: one pass at 64^3", f"{ours['forward_ms']} / {monai['forward_ms']} ms"),
        (f"the same: training loss after {seconds} (no word on where they end)", f"{ours['loss']} / {monai['loss']}"),
    ]


def _shard_writer(figures: dict[str, Any]) -> list[tuple[str, str]]:
    which = "real_ct_128" if "real_ct_128" in figures else "phantoms_128"
    alone, share, memory = figures[which], figures["share_of_a_run"], figures["memory_by_cases"]
    what = {"real_ct_128": "a real CT", "phantoms_128": "phantoms"}[which]
    return [
        (f"writing shards, {what} of 128^3, packing included", f"{alone['cases_a_second_a_core']} cases/s a core"),
        ("the same as a share of a run with the default model", f"{100 * share['writing_share']:.2g} %"),
        (
            "peak memory while " + " / ".join(memory) + " small cases are made and written",
            " / ".join(f"{each['peak_mib']:.0f}" for each in memory.values()) + " MiB",
        ),
    ]


SECTIONS: dict[str, dict[str, Describe]] = {
    "Does it help a segmentation network? Whole scans and scans cut down to their contours": {
        "downstream_scans": downstream_scans_table.markdown,
    },
    "Does it help a segmentation network? Without slices that were not imaged": {
        "downstream_donor_2400_imaged": downstream_table.markdown,
        "downstream_donor_2400_imaged_float32": downstream_table.markdown,
        "downstream_donor_2400_imaged_float32_again": downstream_table.markdown,
        "downstream_strict_2400_imaged": downstream_table.markdown,
        "downstream_found": part.found,
    },
    "The same, with 192 cases of the generator trained on since": {
        "downstream_donor_2400_imaged_float32_192": downstream_table.markdown,
    },
    "The same, with 64 cases of the generator trained on since": {
        "downstream_donor_2400_imaged_float32_since": downstream_table.markdown,
        "downstream_found_since": part.found,
    },
    "The same, with the first generator": {
        "downstream_donor_2400_imaged_float32_history": downstream_table.markdown,
        "downstream_donor_2400_imaged_float32_history_largest": downstream_table.markdown,
        "downstream_found_history": part.found,
    },
    "The same, with stage 1 tuned on cleared scans and raw contours for 300 steps": {
        "downstream_donor_2400_imaged_float32_tuned": downstream_table.markdown,
    },
    "The same, cut scans as they are": {
        "downstream_donor_2400": downstream_table.markdown,
        "downstream_donor": downstream_table.markdown,
        "downstream_strict_2400": downstream_table.markdown,
    },
    "Cut scans as they are, in float32, on a CPU without units for bfloat16": {
        "downstream_donor_2400_float32": downstream_table.markdown,
    },
    "Cut scans as they are, with the image stage before this one, trained on CPUs": {
        "downstream_donor_2400_earlier": downstream_table.markdown,
    },
    "Cut scans as they are, with 900 iterations and the first weights of the head-neck model": {
        "downstream_donor_earlier": downstream_table.markdown,
    },
    "Time and memory": {
        "throughput": _throughput,
        "throughput_before_tissues": _throughput_when("before slices were told of tissues, in a faster hour"),
        "throughput_epyc": _throughput_when("while slices started two steps after the one below, not one"),
        "throughput_float32": _throughput_when("in float32, on a CPU without units for bfloat16"),
        "maisi": of.maisi,
        "mask_networks": _mask_networks,
    },
    "Does the label map show what the report says?": {
        "consistency_system": of.consistency,
        "consistency_anchored": of.consistency,
        "consistency_network": of.consistency,
        "organ_sizes": of.organ_sizes,
        "organ_sizes_head_neck": of.organ_sizes,
        "abstraction": of.abstraction,
    },
    "Does it look like a person?": {
        "plausibility": of.plausibility,
        "detail": part.detail,
        "mask_steps": of.mask_steps,
        "posterior": _posterior,
    },
    "Does it look like a CT?": {
        "autoencoder": _autoencoder,
        "autoencoder_parts": part.autoencoder_parts,
        "ct_quality": of.ct_quality,
        "ct_quality_nine": of.ct_quality,
        "ct_quality_nine_before": of.ct_quality,
        "ct_quality_before_tissues": of.ct_quality,
        "ct_quality_told": of.ct_quality,
        "ct_solvers": of.ct_solvers,
        "ct_solvers50": of.ct_solvers,
        "ct_student": of.ct_solvers,
        "ablations": part.ablations,
        "slabs": part.slabs,
    },
    "The head-neck model beside patients it never saw": {
        "evaluation_head_neck": of.evaluation,
        "evaluation_head_neck_no_targets": of.evaluation,
        "airway": part.airway,
        "airway_no_targets": part.airway,
        "airway_no_targets_redrawn_detail": part.airway,
        "airway_before_thin": part.airway,
        "airway_no_targets_before_thin": part.airway,
        "airway_donor": part.airway,
        "airway_donor_since": part.airway,
        "evaluation_head_neck_redrawn_detail": of.evaluation,
        "evaluation_head_neck_no_targets_redrawn_detail": of.evaluation,
        "evaluation_head_neck_no_targets_told_of_fat": of.evaluation,
        "evaluation_head_neck_before_thin": of.evaluation,
        "evaluation_head_neck_no_targets_before_thin": of.evaluation,
        "evaluation_head_neck_before_decoder": of.evaluation,
        "evaluation_head_neck_cut_scans": of.evaluation,
        "evaluation_head_neck_scans_as_they_are": of.evaluation,
        "detail_head_neck": part.detail,
        "adherence": of.adherence,
        "adherence_scans_as_they_are": of.adherence,
    },
    "How far from real cases, head and neck?": {
        "fidelity": beside.fidelity,
        "fidelity_scans_as_they_are": beside.fidelity,
        "fidelity_donor": beside.fidelity,
    },
    "Is it a copy of a training case, head and neck?": {
        "memorisation": beside.memorisation,
        "memorisation_scans_as_they_are": beside.memorisation,
        "memorisation_donor": beside.memorisation,
    },
    "The same of the torso model. Two people have a CT: the floor is one against the other and says little": {
        "fidelity_torso": beside.fidelity,
        "memorisation_torso": beside.memorisation,
    },
    "Shards": {"shard_writer": _shard_writer, "crashes": part.crashes, "ray_scaling": part.ray_scaling},
    "Loading": {"loading": of.loading},
    "nnU-Net": {"nnunet_openkbp": of.nnunet},
}
