"""Does strided sampling have the true marginal, and what does one reverse step of 128^3 voxels cost in memory?

Exact single-voxel check: a perfect denoiser (Bayes' rule under a known prior over K = 21 classes), T = 1000, the
distribution of the final label propagated exactly, total variation against the prior. `naive` is the same walk with the
one-step kernel in place of the strided one, the mistake of the published code.
"""

from __future__ import annotations

import resource
import time
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.record import save
from guidegen_data.diffusion.categorical import CategoricalProcess, mix, one_hot
from guidegen_data.diffusion.schedule import cosine_abar, spaced_steps

K, T = 21, 1000


def total_variation(num_steps: int, naive: bool, shift: float) -> float:
    """Total variation between the sampled and the true single-voxel marginal after `num_steps` strided steps."""
    truth = torch.softmax(torch.randn(K, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2, dim=0)
    process = CategoricalProcess(cosine_abar(T, shift=shift), K)
    marginal = torch.full((K,), 1 / K, dtype=torch.float64)
    x_t = torch.eye(K, dtype=torch.float64).unsqueeze(0)
    visited = spaced_steps(T, num_steps)
    for t, s in pairwise(visited):
        likelihood = mix(x_t, process.abar[t])[0]
        belief = truth[:, None] * likelihood
        belief = (belief / belief.sum(dim=0)).unsqueeze(0)
        transition = one_step(process, x_t, belief, t) if naive else process.reverse(x_t, belief, t.view(1), s.view(1))
        marginal = transition[0] @ marginal
    return 0.5 * float((marginal - truth).abs().sum())


def one_step(process: CategoricalProcess, x_t: Tensor, belief: Tensor, t: Tensor) -> Tensor:
    """The step from t to t - 1, taken although the walk then jumps farther."""
    return process.reverse(x_t, belief, t.view(1), t.view(1) - 1)


def peak_extra_gib() -> dict[str, float]:
    """Extra peak memory and time of one reverse step, K = 21, 128^3, float32, its two inputs not counted."""
    process = CategoricalProcess(cosine_abar(T), K)
    labels = torch.randint(K, (1, 128, 128, 128))
    x_t, belief = one_hot(labels, K), torch.full((1, K, 128, 128, 128), 1 / K)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    process.reverse(x_t, belief, torch.tensor([500]), torch.tensor([450]))
    seconds = time.perf_counter() - began
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"peak_extra_gib": round(extra / 2**20, 3), "seconds": round(seconds, 2)}


def main() -> None:
    """Runs both and writes results/posterior.json."""
    memory = peak_extra_gib()
    steps = (1000, 50, 10)
    figures = {
        "strided": {str(n): round(total_variation(n, naive=False, shift=1.0), 6) for n in steps},
        "strided_shift_20": {str(n): round(total_variation(n, naive=False, shift=20.0), 6) for n in steps},
        "one_step_kernel": {str(n): round(total_variation(n, naive=True, shift=1.0), 6) for n in steps},
        "reverse_step_128_cubed_21_classes": memory,
    }
    save("posterior", figures, seed=0)


if __name__ == "__main__":
    main()
