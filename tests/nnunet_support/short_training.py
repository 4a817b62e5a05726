"""nnU-Net's own training command with few iterations, for the nnUNetv2_train of a test.

python short_training.py [arguments of nnUNetv2_train], told by the environment:
  TEST_EPOCHS (2)       epochs of the baseline
  TEST_VALIDATION       also the final validation, which takes longest
  TEST_KILL_AFTER       epochs after which the process is gone, as if killed
  TEST_FAILING_SEED     seed with which the generation of fresh cases fails
  TEST_GLOO_RANK        rank of this process in a training of two on the CPU, TEST_GLOO_FILE their meeting point
Cases of a GuideGenStream are drawn as ellipsoids, in milliseconds.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from ellipsoids import EllipsoidGenerator
from guidegen_nnunet import fresh
from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

from guidegen_data import GuideGenStream
from guidegen_data.errors import ModelError

NUM_ITERATIONS = 6
NUM_EPOCHS = int(os.environ.get("TEST_EPOCHS", 2))
_Trainer = module.nnUNetTrainer
_initialise, _end_epoch = _Trainer.__init__, _Trainer.on_epoch_end


def _shortened(self, plans, configuration, fold, dataset_json, device):
    _initialise(self, plans, configuration, fold, dataset_json, device)
    self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = NUM_EPOCHS, NUM_ITERATIONS, 1
    self.save_every = 1
    if self.is_ddp:  # nnU-Net puts such a training on GPUs whatever it is told
        self.device, self.grad_scaler = torch.device("cpu"), None


def _killed(self):
    _end_epoch(self)
    if self.current_epoch == int(os.environ.get("TEST_KILL_AFTER", -1)):
        os._exit(9)


def _open_stream(source):
    if source.settings.seed == int(os.environ.get("TEST_FAILING_SEED", -1)):
        raise ModelError("as asked")
    stream = GuideGenStream(
        EllipsoidGenerator(misses=0), seed=source.settings.seed, device="cpu", label_map=source.label_ids
    )
    stream.set_epoch(source.epoch)
    return stream


# Processes that are spawned import this file as well, and generate in it.
_Trainer.__init__, _Trainer.on_epoch_end = _shortened, _killed
fresh.open_stream = _open_stream
if "TEST_VALIDATION" not in os.environ:
    _Trainer.perform_actual_validation = lambda self, save_probabilities: None

if __name__ == "__main__":
    if "TEST_GLOO_RANK" in os.environ:
        from torch import distributed
        from torch.nn.parallel import DistributedDataParallel

        meeting = f"file://{os.environ['TEST_GLOO_FILE']}"
        distributed.init_process_group(
            "gloo", init_method=meeting, rank=int(os.environ["TEST_GLOO_RANK"]), world_size=2
        )
        module.DDP = lambda network, device_ids: DistributedDataParallel(network)
    run_training_entry()
