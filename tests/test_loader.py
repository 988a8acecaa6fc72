"""Data order is a function of the step: independent of ranks, workers and of where a run starts."""

import multiprocessing
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.dataset import ImageSet
from runner.errors import ConfigError
from runner.group import Group
from runner.loader import Plan, iterate, permutation


def numbered(count: int) -> ImageSet:
    """Images whose pixels are their index."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2).contiguous()
    return ImageSet(images, torch.arange(count), ("a",), (0.5,), (0.5,))


def ids_of(data, plan, world, start, stop, workers=0):
    """Step -> micro-batch -> ids over all ranks, in rank order."""
    ranks = [list(iterate(data, plan, Group(rank=rank, world=world), start, stop, workers)) for rank in range(world)]
    for steps in ranks:
        for window in steps:
            for part in window:
                assert torch.equal(part.rows["images"][:, 0, 0, 0].long(), part.ids) and torch.equal(
                    part.labels, part.ids
                )
    return [
        [torch.cat([steps[index][part].ids for steps in ranks]).tolist() for part in range(len(ranks[0][index]))]
        for index in range(stop - start)
    ]


def test_what_does_not_lie_in_the_memory_is_fetched_by_no_worker():
    """A process that is forked cannot use the GPU; `meta` stands for one."""
    data, plan = numbered(24).to(torch.device("meta")), Plan(24, 8, 1, 0)
    parts = iterate(data, plan, Group(), 0, 3, workers=2)
    next(parts)
    assert multiprocessing.active_children() == []


@settings(max_examples=60)
@given(
    samples=st.integers(16, 120),
    micro=st.sampled_from([4, 8, 12]),
    accumulate=st.integers(1, 3),
    seed=st.integers(0, 2**63 - 1),
    cut=st.integers(0, 12),
)
def test_every_world_size_and_every_cut_give_the_same_sequence(samples, micro, accumulate, seed, cut):
    plan = Plan(max(samples, micro * accumulate), micro * accumulate, accumulate, seed)
    data, stop = numbered(plan.samples), 2 * plan.steps_per_epoch + 1
    whole = ids_of(data, plan, 1, 0, stop)
    for world in (2, 4):
        assert ids_of(data, plan, world, 0, stop) == whole
    cut = min(cut, stop)
    assert ids_of(data, plan, 2, 0, cut) + ids_of(data, plan, 2, cut, stop) == whole
    epoch = [i for window in whole[: plan.steps_per_epoch] for part in window for i in part]
    assert len(set(epoch)) == len(epoch), "no sample twice in an epoch"
    assert plan.samples - len(epoch) < micro, "what is left out fills no micro-batch"
    assert epoch == permutation(seed, 0, plan.samples)[: len(epoch)].tolist(), "the ranks together have the permutation"


def test_a_short_last_window_has_fewer_micro_batches():
    plan = Plan(samples=22, batch_size=8, accumulate=2, seed=0)
    assert plan.steps_per_epoch == 3
    assert [len(plan.window(position)) for position in range(4)] == [2, 2, 1, 2]
    assert all(len(part) == 4 for position in range(3) for part in plan.window(position))


def test_epochs_and_seeds_have_their_own_order():
    first = permutation(0, 0, 100)
    assert np.array_equal(first, permutation(0, 0, 100)) and sorted(first) == list(range(100))
    assert not np.array_equal(first, permutation(0, 1, 100))
    assert not np.array_equal(first, permutation(1, 0, 100))


def test_a_batch_larger_than_the_data_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"train\.batch_size: 64 in 1 parts is more than the 63 samples"):
        Plan(63, 64, 1, 0)


@pytest.mark.slow
def test_workers_change_nothing_and_draw_no_global_random_number():
    plan, data = Plan(40, 8, 2, 3), numbered(40)
    expected = ids_of(data, plan, 2, 2, 9)
    before = torch.get_rng_state()
    for workers in (1, 2):
        assert ids_of(data, plan, 2, 2, 9, workers) == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_are_deaf_to_the_signals_of_the_scheduler():
    plan, data = Plan(64, 8, 1, 0), numbered(64)
    before = set(psutil.Process().children())
    steps = iterate(data, plan, Group(), 0, 8, workers=1)
    next(steps)
    (worker,) = set(psutil.Process().children()) - before
    status = Path(f"/proc/{worker.pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigBlk"))
    for signum in (signal.SIGUSR2, signal.SIGTERM):
        assert int(mask.split()[1], 16) >> (signum - 1) & 1, f"{signum.name} would reach the worker"
    steps.close()
