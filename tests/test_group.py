"""Collectives of a group against plain computation, and the one-process group that needs none."""

import os

import pytest
import torch
import torch.distributed as dist

from runner.group import Group, joined, pick_device
from tests.ranks import CONTEXT, run_ranks

DOCUMENT = {"name": "größe", "step": 2**40, "nested": {"list": [1, None, -0.5, True, "x" * 5000]}, "empty": {}}


def rows_of(rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    return (100 * rank + torch.arange(count * 3)).reshape(count, 3).to(dtype)


def gather_rows(group: Group, sizes: list[int], dtype: torch.dtype) -> torch.Tensor:
    own = rows_of(group.rank, sizes[group.rank], dtype)
    if dtype.is_floating_point:
        own = (own.requires_grad_() * 1).T.contiguous().T  # as a loss gives it: strided, and part of a graph
    gathered = group.all_gather(own)
    assert not gathered.requires_grad
    return gathered


@pytest.mark.ddp
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("sizes", [[4, 4], [1, 5], [3, 0, 2]], ids=str)
def test_all_gather_gives_the_rows_of_all_ranks_in_rank_order(sizes, dtype):
    expected = torch.cat([rows_of(rank, count, dtype) for rank, count in enumerate(sizes)])
    for gathered in run_ranks(len(sizes), gather_rows, sizes, dtype):
        assert gathered.dtype == dtype and torch.equal(gathered, expected)


def small_collectives(group: Group) -> tuple:
    own = torch.full((2,), float(group.rank + 1), requires_grad=True)
    total = group.all_reduce_sum(own)
    assert own.tolist() == [group.rank + 1.0] * 2, "the argument is left as it is"
    document = group.broadcast_json(DOCUMENT if group.is_main else {"of": group.rank})
    none = group.broadcast_json(None)
    group.barrier()
    return (
        group.sizes(group.rank * 10),
        total.tolist(),
        total.requires_grad,
        group.agree_max(-group.rank - 5),
        group.agree_max(2**40 if group.rank == 1 else 0),
        document,
        none,
        group.is_main,
    )


@pytest.mark.ddp
@pytest.mark.parametrize("world", [2, 3])
def test_small_collectives(world):
    total = [world * (world + 1) / 2] * 2
    for rank, found in enumerate(run_ranks(world, small_collectives)):
        sizes = [10 * each for each in range(world)]
        assert found == (sizes, total, False, -5, 2**40, DOCUMENT, None, rank == 0)


def test_one_rank_needs_nobody():
    """Nothing of torch.distributed is called: there is no process group that could answer."""
    x = torch.randn(3, 2, requires_grad=True)
    with joined(0, 1, 0, None, "gloo") as group:
        assert not dist.is_initialized()
        assert torch.equal(group.all_gather(x), x) and not group.all_gather(x).requires_grad
        assert torch.equal(group.all_reduce_sum(x), x) and group.all_reduce_sum(x) is not x
        assert group.sizes(7) == [7] and group.agree_max(-3) == -3
        assert group.broadcast_json(DOCUMENT) is DOCUMENT
        group.barrier()
        assert group.is_main and group.device == pick_device(0, "gloo") == torch.device("cpu")


def test_several_ranks_need_a_store():
    with pytest.raises(AssertionError, match="a store to meet at"), joined(0, 2, 0, None, "gloo"):
        pass


def join_and_raise(folder: str, rank: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", 2)
    try:
        with joined(rank, 2, rank, store, "gloo"):
            raise KeyError(rank)
    except KeyError:
        assert not dist.is_initialized()


@pytest.mark.ddp
def test_an_error_inside_leaves_the_group(tmp_path):
    processes = [CONTEXT.Process(target=join_and_raise, args=(str(tmp_path), rank)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
