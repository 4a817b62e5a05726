"""nnU-Net's data sets of one k and seed, and one training on them: `guidegen nnunet export`, plans, preprocessing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from guidegen_nnunet.settings import PREFIX

from benchmarks.downstream_arms import Arm
from benchmarks.downstream_segmenter import CONFIGURATION, PLANS, Schedule, job_of, small_plans
from benchmarks.nnunet_route import Route, write_real

REAL = 100
_PREPROCESS = ("nnunetv2.experiment_planning.plan_and_preprocess_entrypoints", "preprocess_entry")


class Segmenter:
    """The trainings of one k and seed in nnU-Net folders of their own; everything that is there is kept."""

    def __init__(self, work: Path, real: list[Path], schedule: Schedule, precision: str) -> None:
        self.route, self.schedule = Route(work), schedule
        self.real, self.precision = real, precision
        self.numbers: dict[str, int] = {}

    def raw_real(self) -> Path:
        """The raw data set of the k real cases."""
        folder = self.route.work / "raw" / f"Dataset{REAL:03d}_Real"
        if not (folder / "dataset.json").exists():
            write_real(self.real, folder)
        return folder

    def data_set(self, source: str, shards: Path | None) -> str:
        """Name of a preprocessed data set: the real cases alone, or with the cases of a shard folder.

        SystemExit when nnU-Net would plan other networks or intensities with synthetic cases than without.
        """
        self.raw_real()
        if shards is None:
            return self._preprocessed("Dataset100_Real", self._plan_real)
        baseline = self.data_set("real", None)
        # A number from the name alone, whatever was made before it.
        number = REAL + 1 + sum(ord(c) * 31**i for i, c in enumerate(source)) % 800
        name = f"Dataset{number:03d}_" + "".join(word.capitalize() for word in re.split(r"\W", source))
        self._preprocessed(name, lambda: self._plan_mixed(number, name, shards))
        if self._plans(name) != self._plans(baseline):
            sys.exit(f"the plans of {name} differ from those of the real cases alone: the arms would not compare.")
        return name

    def _plans(self, name: str) -> dict[str, Any]:
        plans = json.loads((self.route.work / "preprocessed" / name / f"{PLANS}.json").read_text())
        return {k: plans[k] for k in ("configurations", "foreground_intensity_properties_per_channel")}

    def _plan_real(self) -> None:
        words = ["-d", REAL, "-c", CONFIGURATION, "--no_pp", "-npfp", 1, "-np", 1]
        module = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints"
        # nnU-Net's planner takes nnUNet_n_proc_DA for a number of threads, which 0 is not.
        self.route.environment["nnUNet_n_proc_DA"] = "1"
        self.route.nnunet("plan", module, "plan_and_preprocess_entry", *words)
        self.route.environment["nnUNet_n_proc_DA"] = "0"

    def _plan_mixed(self, number: int, name: str, shards: Path) -> None:
        # The target volume has no label, and is not to count as an organ.
        words = [shards, "--real", REAL, "--id", number, "--name", name[11:], "--label-map", "ptv70="]
        self.route.guidegen(f"export {name}", "nnunet", "export", *words)
        # Plans alone: the command would also preprocess at nnU-Net's own spacing, which no arm uses.
        plan = f"from guidegen_nnunet.plan import plan; plan('{name}', [], 'ExperimentPlanner', 1)"
        self.route(f"plan {name}", sys.executable, "-c", plan)

    def _preprocessed(self, name: str, plan: Any) -> str:
        folder = self.route.work / "preprocessed" / name
        done = folder / "preprocessed.json"
        if not done.exists():
            plan()
            plans = json.loads((folder / "nnUNetPlans.json").read_text())
            (folder / f"{PLANS}.json").write_text(json.dumps(small_plans(plans, self.schedule)))
            words = ["-d", int(name[7:10]), "-plans_name", PLANS, "-c", CONFIGURATION, "-np", 1]
            self.route.nnunet(f"preprocess {name}", *_PREPROCESS, *words)
            done.write_text(json.dumps({"schedule": self.schedule.__dict__}))
        return name

    def train(self, dataset: str, arm: Arm, seed: int, images: dict[str, str], out: Path) -> dict[str, Any]:
        """One training and its predictions into `out`; its losses and times, and the synthetic share that was drawn.

        Of a share that falls the one that was drawn is told of the first epoch and of the last as well.
        """
        job = job_of(dataset, trainer_of(arm), seed, self.schedule, images, out, self.precision)
        out.mkdir(parents=True, exist_ok=True)
        (out / "job.json").write_text(json.dumps(job))
        # Each run in results of its own: nnU-Net's folder does not tell one fraction from another.
        self.route.environment |= {"nnUNet_results": str(out), **shares_of(arm)}
        log = self.route(f"train {out.name}", sys.executable, "-m", "benchmarks.downstream_segmenter", out / "job.json")
        drawn = [float(s) for s in re.findall(r"GuideGen: ([\d.]+) of \d+ training patches", log)]
        share = round(sum(drawn) / len(drawn), 4) if drawn else 0.0
        told = {"share_drawn": share} | ({"share_drawn_first_last": [drawn[0], drawn[-1]]} if arm.falling else {})
        return json.loads((out / "training.json").read_text()) | told


def trainer_of(arm: Arm) -> str:
    """The class of nnU-Net's, or of the plugin's, that trains an arm."""
    if not arm.fraction:
        return "nnUNetTrainer"
    return "nnUNetTrainerGuideGenSchedule" if arm.falling else "nnUNetTrainerGuideGen"


def shares_of(arm: Arm) -> dict[str, str]:
    """The plugin's settings, as environment variables, that draw an arm's share of synthetic patches."""
    shares = {"FRACTION": arm.fraction}
    if arm.falling:
        shares |= {"FRACTION_START": 2 * arm.fraction, "FRACTION_END": 0.0}
    return {PREFIX + name: str(share) for name, share in shares.items()}
