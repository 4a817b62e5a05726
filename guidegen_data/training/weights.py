"""What tells the weights of a network from any others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 of weights by name, the same whether they are stored in half or in full precision."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.float().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
