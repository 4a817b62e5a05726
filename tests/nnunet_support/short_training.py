"""nnU-Net's own training command with few iterations; final validation only where more than one epoch is asked for.

python short_training.py EPOCHS [arguments of nnUNetv2_train]
"""

import sys

from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

NUM_ITERATIONS = 6
_initialise = nnUNetTrainer.__init__


def _shortened(self, plans, configuration, fold, dataset_json, device):
    _initialise(self, plans, configuration, fold, dataset_json, device)
    self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = NUM_EPOCHS, NUM_ITERATIONS, 1


if __name__ == "__main__":
    NUM_EPOCHS = int(sys.argv.pop(1))
    nnUNetTrainer.__init__ = _shortened
    if NUM_EPOCHS == 1:
        nnUNetTrainer.perform_actual_validation = lambda self, save_probabilities: None
    run_training_entry()
