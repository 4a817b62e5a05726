"""The categorical process against brute force and closed forms."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from guidegen_data.diffusion.categorical import (
    CategoricalProcess,
    CategoricalScheduler,
    draw,
    mix,
    one_hot,
    upsample_belief,
)
from guidegen_data.diffusion.schedule import cosine_abar, spaced_steps
from guidegen_data.errors import ModelError

T = 40
times = st.tuples(st.integers(0, T - 1), st.integers(1, T)).filter(lambda pair: pair[0] < pair[1])
num_classes = st.integers(2, 7)
seeds = st.integers(0, 2**31)


def process_of(k: int) -> CategoricalProcess:
    return CategoricalProcess(cosine_abar(T, shift=3.0), k)


def random_belief(k: int, seed: int, voxels: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, k, voxels, generator=generator, dtype=torch.float64).add(1e-3).softmax(dim=1)


def kernel_matrix(a: float, k: int) -> Tensor:
    """Explicit K x K matrix of keeping with probability a, else drawing a class uniformly."""
    return a * torch.eye(k, dtype=torch.float64) + (1 - a) / k


@given(times, num_classes, seeds)
@settings(max_examples=60, deadline=None)
def test_reverse_is_bayes_rule_summed_over_x0(pair: tuple[int, int], k: int, seed: int) -> None:
    s, t = pair
    process, belief = process_of(k), random_belief(k, seed)
    labels = torch.randint(k, (1, 5), generator=torch.Generator().manual_seed(seed))
    step = kernel_matrix(float(process.abar[t] / process.abar[s]), k)
    from_data = kernel_matrix(float(process.abar[s]), k)
    expected = torch.zeros_like(belief)
    for voxel in range(5):
        for x_0 in range(k):
            posterior = step[labels[0, voxel]] * from_data[x_0]
            expected[0, :, voxel] += belief[0, x_0, voxel] * posterior / posterior.sum()
    x_t = one_hot(labels, k, torch.float64)
    got = process.reverse(x_t, belief, torch.tensor([t]), torch.tensor([s]))
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-8)


@given(times, num_classes)
@settings(max_examples=40, deadline=None)
def test_two_steps_compose_to_the_marginal(pair: tuple[int, int], k: int) -> None:
    s, t = pair
    process = process_of(k)
    x_0 = one_hot(torch.arange(k).view(1, k), k, torch.float64)
    direct = process.marginal(x_0, torch.tensor([t]))
    through_s = mix(process.marginal(x_0, torch.tensor([s])), process.abar[t] / process.abar[s])
    torch.testing.assert_close(through_s, direct, atol=1e-12, rtol=0)


@given(st.integers(1, T), num_classes, seeds)
@settings(max_examples=30, deadline=None)
def test_the_last_step_returns_the_belief(t: int, k: int, seed: int) -> None:
    belief = random_belief(k, seed)
    x_t = one_hot(torch.randint(k, (1, 5), generator=torch.Generator().manual_seed(seed)), k, torch.float64)
    got = process_of(k).reverse(x_t, belief, torch.tensor([t]), torch.tensor([0]))
    torch.testing.assert_close(got, belief, atol=1e-10, rtol=1e-8)


@given(times, num_classes, seeds)
@settings(max_examples=30, deadline=None)
def test_renaming_classes_commutes_with_the_process(pair: tuple[int, int], k: int, seed: int) -> None:
    s, t = (torch.tensor([v]) for v in pair)
    names = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    belief, process = random_belief(k, seed), process_of(k)
    x_t = one_hot(torch.randint(k, (1, 5), generator=torch.Generator().manual_seed(seed)), k, torch.float64)
    torch.testing.assert_close(
        process.reverse(x_t[:, names], belief[:, names], t, s), process.reverse(x_t, belief, t, s)[:, names]
    )


@pytest.mark.parametrize("num_steps", [1000, 50, 10])
def test_strided_sampling_of_a_perfect_denoiser_has_the_true_marginal(num_steps: int) -> None:
    k = 5
    truth = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03], dtype=torch.float64)
    process = CategoricalProcess(cosine_abar(1000), k)
    marginal = torch.full((k,), 1 / k, dtype=torch.float64)
    visited = spaced_steps(1000, num_steps)
    for t, s in pairwise(visited):
        x_t = torch.eye(k, dtype=torch.float64).unsqueeze(0)  # a "voxel" for each possible noisy label
        evidence = kernel_matrix(float(process.abar[t]), k)
        belief = (truth[:, None] * evidence) / (truth[:, None] * evidence).sum(dim=0)
        transition = process.reverse(x_t, belief.unsqueeze(0), t.view(1), s.view(1))[0]
        marginal = transition @ marginal
    assert 0.5 * float((marginal - truth).abs().sum()) < 0.01


def test_corrupted_labels_follow_the_marginal() -> None:
    process = CategoricalProcess(cosine_abar(100), 4)
    labels = torch.full((1, 200_000), 2)
    t = torch.tensor([60])
    drawn = process.corrupt(labels, t, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn[0], minlength=4) / drawn.numel()
    expected = process.marginal(one_hot(labels[:, :1], 4), t)[0, :, 0]
    torch.testing.assert_close(share, expected.float(), atol=0.006, rtol=0)


def test_draws_follow_the_given_probabilities() -> None:
    p = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1).expand(1, 3, 100_000)
    labels = draw(p, [torch.Generator().manual_seed(3)])
    share = torch.bincount(labels[0], minlength=3) / labels.numel()
    torch.testing.assert_close(share, torch.tensor([0.6, 0.3, 0.1]), atol=0.006, rtol=0)


def test_a_case_draws_the_same_alone_as_in_a_batch() -> None:
    p = torch.rand(3, 4, 6, 6).softmax(dim=1)
    together = draw(p, [torch.Generator().manual_seed(i) for i in range(3)])
    alone = [draw(p[i : i + 1], [torch.Generator().manual_seed(i)]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_the_schedule_runs_from_data_to_noise() -> None:
    for shift in (1.0, 20.0):
        abar = cosine_abar(1000, shift=shift)
        assert abar[0] == 1
        assert abar[-1] < 1e-6
        assert (abar.diff() < 0).all()


def test_the_scheduler_walks_every_visited_time_down_to_labels() -> None:
    scheduler = CategoricalScheduler(num_classes=3, num_train_timesteps=50)
    scheduler.set_timesteps(7)
    belief = one_hot(torch.randint(3, (1, 4, 4, 4), generator=torch.Generator().manual_seed(0)), 3)
    generators = [torch.Generator().manual_seed(1)]
    x = scheduler.initial((4, 4, 4), generators)
    assert len(scheduler.timesteps) == 7
    for t in scheduler.timesteps:
        x = scheduler.step(belief, t, x, generators).prev_sample
    assert torch.equal(x, belief.argmax(dim=1))


def test_more_steps_than_times_are_refused() -> None:
    for num_steps in (0, 11):
        with pytest.raises(ModelError, match=f"takes 1 to 10 steps, got {num_steps};"):
            spaced_steps(10, num_steps)


@given(num_timesteps=st.integers(1, 60), num_steps=st.integers(1, 70), last=st.integers(0, 80))
def test_visited_times_fall_from_step_to_step_or_are_refused(num_timesteps, num_steps, last) -> None:
    try:
        visited = spaced_steps(num_timesteps, num_steps, last)
    except ModelError:
        assert num_steps > min(num_timesteps, num_timesteps - last + 1)
    else:
        assert len(visited) == num_steps + 1
        assert (visited[0], visited[-1]) == (num_timesteps, 0)
        assert (visited.diff() < 0).all()


def test_the_final_step_can_start_early() -> None:
    visited = spaced_steps(1000, 10, last=250)
    assert visited[0] == 1000
    assert visited[-2:].tolist() == [250, 0]
    assert (visited.diff() < 0).all()
    assert torch.equal(spaced_steps(1000, 2, last=250), spaced_steps(1000, 2))


def test_an_upsampled_belief_keeps_flat_regions_and_smooths_borders() -> None:
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    labels[:, 4:] = 2
    fine = upsample_belief(one_hot(labels, 3), (16, 16, 16))
    assert fine.dtype == torch.uint8
    assert set(fine.unique().tolist()) == {0, 2}
    assert torch.equal(fine[0, :, 3, 3] > 0, torch.arange(16) >= 8)


def test_labels_are_corrupted_where_they_are_by_random_numbers_of_the_cpu() -> None:
    process = CategoricalProcess(cosine_abar(100), 4)
    labels = torch.zeros(2, 3, 3, dtype=torch.uint8, device="meta")
    noisy = process.corrupt(labels, torch.tensor([1, 50]), torch.Generator().manual_seed(0))
    assert noisy.device.type == "meta"
    assert noisy.shape == labels.shape
