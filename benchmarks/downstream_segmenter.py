"""One nnU-Net training and its predictions, as a process: python -m benchmarks.downstream_segmenter JOB.json.

The trainer is nnU-Net's or our plugin's as they are installed, network and schedule are those of the job. Nothing is
mirrored, in training and in prediction: three of the labels have a side. On a CPU the network computes in
bfloat16 where that is native and the job does not ask for float32.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.models.precision import compute_dtype, mixed_precision

PLANS = "nnUNetPlansSmall"
CONFIGURATION = "3d_fullres"


@dataclass(frozen=True)
class Schedule:
    """Network and schedule of every arm alike: nnU-Net's plain U-Net, loss, augmentation and decay, but smaller.

    `features` a stage, each stage but the first at half the resolution of the last; `step_size` is how far the window
    of prediction moves, in patches. AdamW, as in nnU-Net's own Adam trainers: with SGD the seven small organs were
    still background after the few hundred iterations that a training has here.
    """

    spacing_mm: float = 5.0
    patch_size: int = 48
    batch_size: int = 2
    features: tuple[int, ...] = (8, 16, 32, 64)
    num_epochs: int = 18
    num_iterations_per_epoch: int = 50
    initial_lr: float = 0.01
    weight_decay: float = 3e-5
    step_size: float = 0.75

    @property
    def num_iterations(self) -> int:
        return self.num_epochs * self.num_iterations_per_epoch


def small_plans(plans: dict[str, Any], schedule: Schedule) -> dict[str, Any]:
    """nnU-Net's plans with the spacing, patches, batches and network of a schedule; resampling by torch."""
    stages = len(schedule.features)
    configuration = plans["configurations"][CONFIGURATION]
    network = configuration["architecture"]
    kwargs = network["arch_kwargs"] | {
        "n_stages": stages,
        "features_per_stage": list(schedule.features),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": [1] + [2] * (stages - 1),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    resampling = {"force_separate_z": False, "memefficient_seg_resampling": False}
    small = configuration | {
        "data_identifier": f"{PLANS}_{CONFIGURATION}",
        "spacing": [schedule.spacing_mm] * 3,
        "patch_size": [schedule.patch_size] * 3,
        "batch_size": schedule.batch_size,
        "batch_dice": True,
        "architecture": network | {"arch_kwargs": kwargs},
        **{f"resampling_fn_{what}": "resample_torch_fornnunet" for what in ("data", "seg", "probabilities")},
        "resampling_fn_data_kwargs": resampling | {"is_seg": False},
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True},
        "resampling_fn_probabilities_kwargs": resampling | {"is_seg": False},
    }
    return plans | {"plans_name": PLANS, "configurations": {CONFIGURATION: small}}


def job_of(
    dataset: str, trainer: str, seed: int, schedule: Schedule, images: dict[str, str], out: Path, precision: str
) -> dict:
    """What this module is told as a process. `trainer` is nnU-Net's or one of the plugin's, by the name of its class;
    the share of synthetic patches is told by the plugin's environment variables."""
    return {
        "precision": precision,
        "dataset": dataset,
        "trainer": trainer,
        "seed": seed,
        "schedule": asdict(schedule),
        "images": images,
        "out": str(out),
    }


def make_trainer(job: dict[str, Any], preprocessed: Path) -> Any:
    """The trainer of a job, on the CPU or the GPU, with the schedule's length; all real cases are trained on."""
    from guidegen_nnunet.trainer import nnUNetTrainerGuideGen
    from guidegen_nnunet.variants import nnUNetTrainerGuideGenSchedule
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = preprocessed / job["dataset"]
    plans = json.loads((folder / f"{PLANS}.json").read_text()) | {"continue_training": False}
    dataset_json = json.loads((folder / "dataset.json").read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # nnU-Net's fold is a number or "all", whatever it declares.
    trainers: tuple[Any, ...] = (nnUNetTrainer, nnUNetTrainerGuideGen, nnUNetTrainerGuideGenSchedule)
    trainer = {t.__name__: t for t in trainers}[job["trainer"]](plans, CONFIGURATION, "all", dataset_json, device)
    schedule = job["schedule"]
    for name in ("num_epochs", "num_iterations_per_epoch", "initial_lr"):
        setattr(trainer, name, schedule[name])
    trainer.num_val_iterations_per_epoch = 1  # of training patches: it chooses nothing, and nnU-Net needs one
    _without_mirroring(trainer)
    trainer.configure_optimizers = lambda: _adam(trainer, schedule)
    trainer.logger.plot_progress_png = lambda folder: None
    return trainer


def _adam(trainer: Any, schedule: dict[str, Any]) -> tuple[Any, Any]:
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    weights = trainer.network.parameters()
    optimizer = torch.optim.AdamW(weights, schedule["initial_lr"], weight_decay=schedule["weight_decay"])
    return optimizer, PolyLRScheduler(optimizer, schedule["initial_lr"], schedule["num_epochs"])


def _without_mirroring(trainer: Any) -> None:
    settle = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size

    def settle_without() -> tuple[Any, ...]:
        *rest, _ = settle()
        trainer.inference_allowed_mirroring_axes = None
        return (*rest, None)

    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size = settle_without


def precision_here(float32: bool = False) -> str:
    """'bfloat16', 'float16' or 'float32': what a training on this machine multiplies in.

    `float32` asks for that, to go on with trainings of a machine without units for bfloat16. nnU-Net's own autocast on
    a GPU is to float16, and SystemExit where that cannot be left out.
    """
    if torch.cuda.is_available():
        if float32:
            sys.exit("nnU-Net multiplies in float16 on a GPU; --float32 is for a CPU (CUDA_VISIBLE_DEVICES= hides it).")
        return "float16"
    return "float32" if float32 else str(compute_dtype(torch.device("cpu"))).removeprefix("torch.")


def _compute_in_mixed_precision(network: torch.nn.Module, precision: str) -> None:
    forward = network.forward

    def mixed(x: torch.Tensor) -> Any:
        with mixed_precision(torch.device("cpu"), wanted=precision != "float32"):
            outputs = forward(x.contiguous(memory_format=torch.channels_last_3d))
        return [o.float() for o in outputs] if isinstance(outputs, list | tuple) else outputs.float()

    network.forward = mixed


def predict(trainer: Any, images: dict[str, str], out: Path, step_size: float) -> None:
    """Label maps NAME.nii.gz of CTs (name -> file) on their own grids, without test-time augmentation."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(tile_step_size=step_size, use_mirroring=False, device=trainer.device, allow_tqdm=False)
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    reader = trainer.plans_manager.image_reader_writer_class()
    out.mkdir(parents=True, exist_ok=True)
    for name, path in images.items():
        image, properties = reader.read_images([path])
        reader.write_seg(predictor.predict_single_npy_array(image, properties), str(out / f"{name}.nii.gz"), properties)


def main() -> None:
    """Trains, predicts, and writes OUT/training.json."""
    from nnunetv2.paths import nnUNet_preprocessed

    keep_freed_memory()
    job = json.loads(Path(sys.argv[1]).read_text())
    out, seed = Path(job["out"]), job["seed"]
    # nnU-Net draws patches and augments with the global generators.
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    began = time.perf_counter()
    trainer = make_trainer(job, Path(str(nnUNet_preprocessed)))
    trainer.initialize()
    if trainer.device.type == "cpu":
        trainer.network.to(memory_format=torch.channels_last_3d)
        _compute_in_mixed_precision(trainer.network, job["precision"])
    trainer.run_training()
    trained = time.perf_counter()
    predict(trainer, job["images"], out, job["schedule"]["step_size"])
    figures = {
        "train_losses": [round(float(v), 4) for v in trainer.logger.get_value("train_losses", None)],
        "precision": job["precision"],
        "seconds_training": round(trained - began, 1),
        "seconds_prediction": round(time.perf_counter() - trained, 1),
    }
    (out / "training.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
