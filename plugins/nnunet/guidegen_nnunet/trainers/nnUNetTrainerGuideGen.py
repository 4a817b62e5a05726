"""For nnUNet_extTrainer: nnU-Net imports every file of that folder, so this one stands alone and holds no code."""

from guidegen_nnunet.trainer import nnUNetTrainerGuideGen

__all__ = ["nnUNetTrainerGuideGen"]
