"""For nnUNet_extTrainer: nnU-Net imports every file of that folder, so this one stands alone and holds no code."""

from guidegen_nnunet.fresh_trainer import nnUNetTrainerGuideGenStream
from guidegen_nnunet.trainer import nnUNetTrainerGuideGen
from guidegen_nnunet.variants import (
    nnUNetTrainerGuideGenFinetune,
    nnUNetTrainerGuideGenPretrain,
    nnUNetTrainerGuideGenSchedule,
)

__all__ = [
    "nnUNetTrainerGuideGen",
    "nnUNetTrainerGuideGenFinetune",
    "nnUNetTrainerGuideGenPretrain",
    "nnUNetTrainerGuideGenSchedule",
    "nnUNetTrainerGuideGenStream",
]
