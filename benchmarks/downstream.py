"""Does synthetic data help nnU-Net? python -m benchmarks.downstream OPENKBP --work DIR --setting donor --model MODEL.

OPENKBP is what python -m benchmarks.openkbp_nifti makes of the download: index.csv, train/ and validation/ with
pt_N_ct.nii.gz and pt_N_label.nii.gz. Of k training patients (with seven contoured organs, but for ten of the 40 at
k = 40 that lack one) nnU-Net v2 is trained with and without synthetic cases, always for the same number of iterations,
and tested on the 33 validation patients (or on --test). Two settings, never mixed:

  donor   the generator learned from other patients (python -m benchmarks.openkbp_split); --model is its folder. The
          head-neck model that comes with the package learned from all 170 and is refused
  strict  the generator learned from the same k patients; --model is a template such as RUNS/k{k}-seed{seed}, and what
          is missing there is trained first

Every training leaves DIR/runs/ARM-kK-seedS.json; the same command goes on with what is missing, and with --known
RESULT.json trainings that a result with the same settings holds are not done again on another machine (of the other
setting: those on real patients alone, which are the same). Figures are
drawn from what is there, with the number of what is not (--report: nothing is trained). An organ that a test patient
has no contour of is left out of that patient's score. Slices that were not imaged (`benchmarks.openkbp_imaged`) are
taken out of all patients first, into DIR/imaged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.downstream_arms import ARMS, Sizes, Sources, arms_named, facts
from benchmarks.downstream_curve import draw
from benchmarks.downstream_donors import donor_cases
from benchmarks.downstream_generators import refuse_leak, refuse_shipped, strict_model
from benchmarks.downstream_scores import packed, runs_of, score_folder
from benchmarks.downstream_segmenter import Schedule, precision_here
from benchmarks.downstream_statistics import NUM_DRAWS, summary
from benchmarks.downstream_train import Segmenter
from benchmarks.nnunet_route import num_whole
from benchmarks.openkbp_imaged import clear_all, clear_folder
from benchmarks.openkbp_split import chosen, pool_and_donors
from benchmarks.record import RESULTS, save
from guidegen_data.models.folder import fingerprint_of

_QUICK = Schedule(num_epochs=3, num_iterations_per_epoch=10)
_QUICK_SIZES = Sizes(num_cases=8, num_fixed=4)
_QUICK_TESTED = 4
#: Settings that trainings on real patients alone do not depend on.
_OF_GENERATORS = ("setting", "num_cases_a_source", "num_cases_fixed")


@dataclass(frozen=True)
class Training:
    """One cell of the table."""

    arm: str
    k: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-k{self.k}-seed{self.seed}"


def schedule_of(iterations: int) -> Schedule:
    """The schedule of so many iterations, in epochs as long as ever; SystemExit when they are no whole epochs."""
    epochs, rest = divmod(iterations, Schedule().num_iterations_per_epoch)
    if rest or not epochs:
        sys.exit(f"--iterations must be a multiple of {Schedule().num_iterations_per_epoch}, got {iterations}.")
    return replace(Schedule(), num_epochs=epochs)


def precision_of(run: dict[str, Any]) -> str:
    """'bfloat16' or 'float32' of a training; those of before it was told ran in bfloat16."""
    return str(run.get("precision", "bfloat16"))


def trainings(arms: list[str], ks: list[int], seeds: list[int]) -> list[Training]:
    """All cells: every arm of one seed before the next seed, so that what is there early can be compared."""
    return [Training(arm, k, seed) for k in ks for seed in seeds for arm in arms]


class Benchmark:
    """The files of a benchmark under one folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work, self.openkbp = args, args.work, args.work / "imaged"
        test = args.test or args.openkbp / "validation"
        found = sorted(test.glob("*_ct.nii.gz"))[: _QUICK_TESTED if args.quick else None]
        self.test = {ct.name.removesuffix("_ct.nii.gz"): ct for ct in found}
        if not self.test:
            sys.exit(f"{test} holds no NAME_ct.nii.gz with NAME_label.nii.gz to test on; give a folder that does.")
        self.schedule = _QUICK if args.quick else schedule_of(args.iterations)
        wanted = Sizes(num_cases=args.num_synthetic)
        self.sizes = replace(_QUICK_SIZES) if args.quick else wanted
        self.settings = {
            "setting": args.setting,
            "schedule": asdict(self.schedule),
            "num_cases_a_source": self.sizes.num_cases,
            "num_cases_fixed": self.sizes.num_fixed,
            "slices": "imaged",
            "test": test.name,
            "test_patients": sorted(self.test),
        }

    def claim(self) -> None:
        """SystemExit when the folder holds a benchmark with other settings."""
        path = self.work / "settings.json"
        ours = json.loads(json.dumps(self.settings))
        if path.exists() and json.loads(path.read_text()) != ours:
            sys.exit(f"{self.work} holds trainings of other settings ({path.name}); give another --work.")
        self.work.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(ours, indent=1))

    def clear(self) -> None:
        """Takes what was not imaged out of all patients, the test patients too; what is done is not done again."""
        clear_all(self.args.openkbp, self.openkbp)
        folder = self.openkbp / "validation"
        if self.args.test:
            folder = clear_folder(self.args.test, self.work / "imaged-test")
        self.test = {name: folder / ct.name for name, ct in self.test.items()}

    def restore(self, result: Path) -> int:
        """Takes over the trainings of a result that this folder lacks, and says how many.

        Of the other setting, donor or strict, or with other numbers of cases only those that use no generator; of
        another generator than --model, where that is here, neither. SystemExit for a result of other settings beside,
        of another precision than what is here, or one that holds no scores of single organs.
        """
        held = json.loads(result.read_text())["figures"]
        ours = json.loads(json.dumps(self.settings))
        other = [name for name in ours if held.get(name) != ours[name]]
        if of_all := [name for name in other if name not in _OF_GENERATORS]:
            sys.exit(f"{result} has another {', '.join(of_all)}; its trainings cannot be compared with these.")
        if "scores" not in held:
            sys.exit(f"{result} holds no scores of single organs, only means; it cannot be gone on from.")
        taken = 0
        for run in runs_of(held):
            training = Training(run["arm"], run["k"], run["seed"])
            taken_over = ARMS[run["arm"]].source is None or (not other and self._same_generator(run))
            if taken_over and not self.run_file(training).exists():
                self._refuse_other_precision(precision_of(run))
                self._keep(training, run)
                taken += 1
        return taken

    def _same_generator(self, run: dict[str, Any]) -> bool:
        """Whether a run's cases are those of --model; also where that is not here, or is a template of many."""
        if self.args.setting == "strict" or not (Path(self.args.model) / "model_index.json").exists():
            return True
        return bool(run.get("model_sha256") == fingerprint_of(Path(self.args.model)))

    def _refuse_other_precision(self, precision: str) -> None:
        """SystemExit where a training here was done in another precision: the arms would not compare."""
        for path in sorted((self.work / "runs").glob("*.json")):
            if (held := precision_of(json.loads(path.read_text()))) != precision:
                sys.exit(
                    f"{path.stem} in {self.work} was trained in {held}, which does not compare with {precision}; "
                    "give another --work for what is trained on this machine."
                )

    def run_file(self, training: Training) -> Path:
        """Where the scores of a training are, once it is done."""
        return self.work / "runs" / f"{training.name}.json"

    def done(self, wanted: list[Training]) -> list[dict[str, Any]]:
        """The finished ones of some trainings."""
        return [json.loads(self.run_file(t).read_text()) for t in wanted if self.run_file(t).exists()]

    def do(self, training: Training) -> None:
        """Trains, predicts and scores; a training that is done is not done again."""
        if not self.run_file(training).exists():
            self._refuse_other_precision(precision_here(self.args.float32))
            self._keep(training, self._train(training))

    def _keep(self, training: Training, figures: dict[str, Any]) -> None:
        path = self.run_file(training)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(figures))
        os.replace(partial, path)

    def _train(self, training: Training) -> dict[str, Any]:
        names = chosen(self.openkbp, training.k, training.seed)
        _, donors = pool_and_donors(self.openkbp)
        refuse_leak(self.openkbp, names, donors if self.args.setting == "donor" else [], sorted(self.test))
        real = [self.openkbp / "train" / f"{name}_ct.nii.gz" for name in names]
        arm, cell = ARMS[training.arm], self.work / f"k{training.k}-seed{training.seed}"
        shards, generator = None, None
        if arm.source:
            sources = self._sources(training, real, cell)
            shards, generator = sources.shards(arm.source), sources.fingerprint()
        segmenter = Segmenter(cell / "nnunet", real, self.schedule, precision_here(self.args.float32))
        out = self.work / "predictions" / training.name
        images = {name: str(ct) for name, ct in self.test.items()}
        dataset = segmenter.data_set(arm.source or "real", shards)
        measured = segmenter.train(dataset, arm, training.seed, images, out)
        about = {**asdict(training), "fraction": arm.fraction, "falling": arm.falling}
        about |= {"source": arm.source, "real_cases": names}
        about |= {"num_synthetic": num_whole(shards) if shards else 0}
        about |= {"num_iterations": self.schedule.num_iterations, "model_sha256": generator}
        return {**about, **measured, "cases": score_folder(out, self.test)}

    def _sources(self, training: Training, real: list[Path], cell: Path) -> Sources:
        if self.args.setting == "donor":
            refuse_shipped(self.args.model)
            made = partial(donor_cases, self.openkbp, self.work / "donors")
            return Sources(self.work / "shards", cell / "shards", real, Path(self.args.model), self.sizes, made)
        model = Path(self.args.model.format(k=training.k, seed=training.seed))
        if not (model / "model_index.json").exists():
            strict_model(model, real, cell / "generator", self.args.train_recipe, self.args.train_steps)
        return Sources(cell / "shards", cell / "shards", real, model, self.sizes)

    def report(self, wanted: list[Training]) -> None:
        """Writes results/downstream_SETTING.json and the curve; SystemExit when nothing is done yet.

        A result of trainings in float32 alone, as on a CPU without units for bfloat16, has a file of its own.
        """
        runs = self.done(wanted)
        if not runs:
            sys.exit(f"none of the {len(wanted)} trainings is done in {self.work}; run without --report first.")
        figures = {
            **self.settings,
            "num_iterations": self.schedule.num_iterations,
            "precisions": sorted({precision_of(run) for run in runs}),
            "num_bootstrap_draws": NUM_DRAWS,
            "num_missing": len(wanted) - len(runs),
            "generated": {f.parent.name: facts(f.parent) for f in sorted(self.work.glob("shards/*/manifest.jsonl"))},
            "summary": summary(runs, list(ARMS)),
            "trainings": [{k: v for k, v in run.items() if k != "cases"} for run in runs],
            "scores": {Training(r["arm"], r["k"], r["seed"]).name: packed(r["cases"]) for r in runs},
        }
        name = f"downstream_{self.args.setting}"
        name += "" if self.settings["test"] == "validation" else f"_{self.settings['test']}"
        if not self.args.quick and self.schedule != Schedule():
            name += f"_{self.schedule.num_iterations}"
        name += "_imaged"
        name += "_float32" if figures["precisions"] == ["float32"] else ""
        name += "_quick" if self.args.quick else ""
        name += f"_{self.args.suffix}" if self.args.suffix else ""
        save(name, figures)
        draw(figures, RESULTS / f"{name}.png")
        print(f"{len(runs)} trainings done, {len(wanted) - len(runs)} missing")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openkbp", type=Path, help="folder with index.csv, train and validation")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in; the same one goes on")
    parser.add_argument("--setting", choices=["donor", "strict"], required=True)
    parser.add_argument("--model", required=True, help="model folder; strict: a template with {k} and {seed}")
    parser.add_argument("--k", type=int, nargs="+", default=[5, 10, 20, 40], help="real training patients")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--test", type=Path, help="test patients (default OPENKBP/validation)")
    parser.add_argument("--num-synthetic", type=int, default=Sizes().num_cases, help="cases a source (default 200)")
    usual = Schedule().num_iterations
    parser.add_argument("--iterations", type=int, default=usual, help=f"of every training (default {usual})")
    parser.add_argument("--train-recipe", default="small", help="strict: recipe of the generator's three stages")
    parser.add_argument(
        "--train-steps", type=int, nargs=3, default=[1000, 4800, 3600], help="strict: of autoencoder, masks, slices"
    )
    parser.add_argument("--known", type=Path, metavar="RESULT", help="results/NAME.json to go on from")
    parser.add_argument("--float32", action="store_true", help="multiply in float32 on a CPU that has bfloat16")
    parser.add_argument("--report", action="store_true", help="only figures from what is done")
    parser.add_argument("--suffix", default="", help="ends the result's name, to keep another's beside it")
    parser.add_argument("--quick", action="store_true", help="few patients, cases and iterations: does it run?")
    return parser.parse_args()


def progress(wanted: list[Training]) -> Iterator[Training]:
    """The trainings in order, each told before it begins."""
    for number, training in enumerate(wanted, start=1):
        print(f"[{number}/{len(wanted)}] {training.name}", flush=True)
        yield training


def main() -> None:
    """Does what is missing, then the figures."""
    args = _parse()
    benchmark = Benchmark(args)
    benchmark.claim()
    if args.known:
        print(f"{benchmark.restore(args.known)} trainings taken over from {args.known}")
    wanted = trainings(list(arms_named(args.arms)), args.k, args.seeds)
    if not args.report:
        benchmark.clear()
        for training in progress(wanted):
            benchmark.do(training)
    benchmark.report(wanted)


if __name__ == "__main__":
    main()
