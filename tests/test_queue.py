"""The queue of keys against a list, on one and on several ranks."""

import copy

import pytest
import torch

from runner.group import Group
from runner.queue import Queue
from tests.ranks import run_ranks

ALONE = Group()
SIZE, WIDTH = 7, 3


def make_queue():
    torch.manual_seed(0)
    return Queue(SIZE, WIDTH)


def batches():
    """Sizes that do not divide the queue, none at all, exactly all of it, and more than it has rows."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, WIDTH, generator=generator) for size in (3, 3, 0, 3, 7, 1, 10, 16, 2)]


def newest(before, count):
    """The rows a queue must hold after the first `count` batches, as a list that only ever grows would say."""
    rows, place = before.clone(), 0
    for batch in batches()[:count]:
        for key in batch:
            rows[place % SIZE] = key
            place += 1
    return rows, place % SIZE


def test_equals_writing_one_key_after_the_other():
    queue = make_queue()
    start = queue.rows.clone()
    for count, batch in enumerate(batches(), 1):
        queue.enqueue(batch, ALONE)
        rows, place = newest(start, count)
        assert torch.equal(queue.rows, rows) and queue.next == place


def test_starts_with_unit_rows_that_follow_the_seed():
    queue = make_queue()
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(SIZE))
    assert torch.equal(queue.rows, make_queue().rows)
    assert not list(queue.parameters())


def test_a_requeue_goes_on_with_the_same_rows():
    whole, first = make_queue(), make_queue()
    for batch in batches():
        whole.enqueue(batch, ALONE)
    for batch in batches()[:4]:
        first.enqueue(batch, ALONE)
    state = copy.deepcopy(first.state_dict())
    assert set(state) == {"rows", "next"}
    torch.manual_seed(5)
    resumed = Queue(SIZE, WIDTH)
    resumed.load_state_dict(state)
    for batch in batches()[4:]:
        resumed.enqueue(batch, ALONE)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_keys_of_autocast_enter_without_their_graph():
    queue = make_queue()
    keys = torch.randn(2, WIDTH).to(torch.bfloat16).requires_grad_()
    queue.enqueue(keys, ALONE)
    assert torch.equal(queue.rows[:2], keys.detach().float()) and not queue.rows.requires_grad


def fill(group, splits):
    queue = make_queue()
    for batch, sizes in zip(batches(), splits, strict=True):
        start = sum(sizes[: group.rank])
        queue.enqueue(batch[start : start + sizes[group.rank]], group)
    return queue.state_dict()


@pytest.mark.ddp
@pytest.mark.parametrize("world", [2, 4])
def test_every_rank_holds_the_keys_of_all_in_rank_order(world):
    cuts = [torch.tensor_split(torch.arange(len(batch)), world) for batch in batches()]
    splits = [[len(piece) for piece in pieces] for pieces in cuts]
    splits[0] = [0] * (world - 1) + [3]
    expected = fill(ALONE, [[len(batch)] for batch in batches()])
    for state in run_ranks(world, fill, splits):
        assert all(torch.equal(value, expected[name]) for name, value in state.items())
