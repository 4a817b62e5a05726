"""The networks of both stages.

transformers and diffusers import torchvision where it is installed, and fail in the middle of their own imports when it
was built for another torch. That is said here in a sentence, before any of our networks is imported.
"""

from importlib.util import find_spec

from guidegen_data.errors import ModelError

try:
    from diffusers import DiffusionPipeline, ModelMixin
except (ImportError, RuntimeError) as error:
    if find_spec("torchvision") is None:
        raise
    from importlib.metadata import version

    raise ModelError(
        f"torchvision {version('torchvision')} does not fit torch {version('torch')} (a CUDA build beside a CPU build, "
        f"or another version); install the torchvision build that matches, or uninstall torchvision."
    ) from error

__all__ = ["DiffusionPipeline", "ModelMixin"]
