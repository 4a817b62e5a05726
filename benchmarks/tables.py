"""Writes the README's tables and draws the curves from results/*.json: python -m benchmarks.tables [--check].

Curves need matplotlib (the `benchmarks` extra) and are left as they are without it. Sheets of cases are drawn by the
benchmarks that made the cases.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import describe as of
from benchmarks import describe_parts as part
from benchmarks import downstream_curve, downstream_scans_table, downstream_table, training_curves
from benchmarks import fidelity_rows as beside
from benchmarks.record import RESULTS
from guidegen_data.models.folder import fingerprint_of, model_folder, part_fingerprint

README = Path(__file__).parent.parent / "README.md"
Describe = Callable[[dict[str, Any]], list[tuple[str, str]] | str]
#: Results whose tables tell seconds.
_TIMED = (
    "throughput_epyc",
    "mask_networks",
    "ct_solvers",
    "ct_solvers50",
    "ct_student",
    "slabs",
    "shard_writer",
    "loading",
)
#: Every weight file is read once for all results.
_whole, _part = functools.cache(fingerprint_of), functools.cache(part_fingerprint)
#: What is told of figures of a model that the package no longer has in every part.
_EARLIER = "earlier weights"
_BEGIN, _END = "<!-- figures: python -m benchmarks.tables -->", "<!-- end of figures -->"
_GAIN_BEGIN, _GAIN_END = "<!-- gain: python -m benchmarks.tables -->", "<!-- end of gain -->"


def tables() -> str:
    """Every table of the README, in Markdown, from the committed results."""
    parts = []
    machine = json.loads((RESULTS / "throughput.json").read_text())["machine"]
    for title, describers in _SECTIONS.items():
        held = {name: describe for name, describe in describers.items() if (RESULTS / f"{name}.json").exists()}
        parts += [f"**{title}**", ""] if held else []
        for name, describe in held.items():
            record = json.loads((RESULTS / f"{name}.json").read_text())
            said = describe(record["figures"])
            how = f"`{record['command']}`{_notes(name, record, machine)}"
            parts += [how, "", said if isinstance(said, str) else _two_columns(said), ""]
    parts.append(
        f"Timings: {_named(machine)}, torch {machine['torch']}, no accelerator, where no other machine is named; every "
        f'results file names its own. "{_EARLIER.capitalize()}": a part of the model has been replaced since, as its '
        "card tells. The Xeon has units for products of bf16 matrices (AMX), the EPYC has none."
    )
    return "\n".join(parts)


def _notes(name: str, record: dict[str, Any], machine: dict[str, Any]) -> str:
    """What is to be said of a result beside its command, in brackets: another machine, weights that are gone."""
    elsewhere = name in _TIMED and not _same(record["machine"], machine)
    notes = [f"on {_named(record['machine'])}"] if elsewhere else []
    notes += [] if of_now(record["figures"]) else [_EARLIER]
    return f" ({'; '.join(notes)})" if notes else ""


def of_now(figures: dict[str, Any]) -> bool:
    """Whether a model of the package still has the parts that made these figures: all, where they name none."""
    folders = [model_folder(name) for name in ("torso", "head-neck")]
    parts = figures.get("parts_sha256", {})
    if parts:
        return any(all(_part(f, part) == told for part, told in parts.items()) for f in folders)
    return figures.get("model_sha256") in (None, *map(_whole, folders))


def _same(machine: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(machine[key] == other[key] for key in ("cpu", "cores"))


def _named(machine: dict[str, Any]) -> str:
    cores = "one core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    return f"{cores} of {machine['cpu'].replace('(R)', '').removesuffix(' Processor')}"


def _two_columns(rows: list[tuple[str, str]]) -> str:
    cells = (f"| {what} | {figure} |".replace("|log2|", "\\|log2\\|") for what, figure in rows)
    return "\n".join(["| what | figure |", "|---|---|", *cells])


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


_SECTIONS: dict[str, dict[str, Describe]] = {
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
    "The same, with the generator before it was trained on": {
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
        "evaluation_head_neck_before_decoder": of.evaluation,
        "evaluation_head_neck_cut_scans": of.evaluation,
        "evaluation_head_neck_scans_as_they_are": of.evaluation,
        "detail_head_neck": part.detail,
        "adherence": of.adherence,
    },
    "How far from real cases, head and neck?": {"fidelity": beside.fidelity, "fidelity_donor": beside.fidelity},
    "Is it a copy of a training case, head and neck?": {
        "memorisation": beside.memorisation,
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


def rewritten(readme: str) -> str:
    """The README with its figures replaced by the current ones."""
    scans = json.loads((RESULTS / "downstream_scans.json").read_text())["figures"]
    gain = downstream_scans_table.gain(scans)
    return _between(_between(readme, _GAIN_BEGIN, _GAIN_END, gain), _BEGIN, _END, tables())


def _between(text: str, begin: str, end: str, told: str) -> str:
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{told}\n{end}{tail}"


def draw_curves(folder: Path = RESULTS) -> list[Path]:
    """Every curve of the results in a folder, beside its JSON file; the pictures drawn."""
    drawn = []
    for path in sorted(folder.glob("*.json")):
        figures, picture = json.loads(path.read_text())["figures"], path.with_suffix(".png")
        if path.stem == "downstream_scans":
            downstream_scans_table.draw(figures, picture)
        elif path.stem.startswith("downstream_") and "summary" in figures:
            downstream_curve.draw(figures, picture)
        elif path.stem.endswith("_training"):
            training_curves.draw(figures, picture)
        else:
            continue
        drawn.append(picture)
    return drawn


def main() -> None:
    """Rewrites README.md and draws the curves, or with --check exits with 1 when the README is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when the README is stale")
    args = parser.parse_args()
    old = README.read_text()
    new = rewritten(old)
    if args.check:
        sys.exit(int(old != new))
    README.write_text(new)
    if importlib.util.find_spec("matplotlib"):
        print(f"README.md and {len(draw_curves())} curves written")
    else:
        print("README.md written; curves need matplotlib, which is not installed")


if __name__ == "__main__":
    main()
